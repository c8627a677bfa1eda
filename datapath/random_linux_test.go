// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

var (
	randomSteps = flag.Int("random-steps", 150, "how many steps TestRandom takes in each layout")
	randomSeed  = flag.Uint64("random-seed", 0, "seed of TestRandom; 0 takes a new one")
)

// TestRandom does everything that happens to a node and its pods in random order: ADD and
// DEL in several modes, kills in the middle of either, of EnsureNode and of a conversion to
// the other layout, sandboxes that end, reboots, and garbage of all kinds. ADD must work
// after any of it, and once the remains have been deleted the node must be exactly what is
// desired.
func TestRandom(t *testing.T) {
	isolatetest.Require(t)
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for _, layout := range []Layout{Flat, PerPod} {
		t.Run(string(layout), func(t *testing.T) {
			t.Logf("-random-seed=%d -random-steps=%d", seed, *randomSteps)
			w := newWorld(t, rand.New(rand.NewPCG(seed, 1)).IntN, layout)
			for range *randomSteps {
				w.step()
			}
			w.clean()
			w.compare()
			t.Logf("steps: %v", w.done)
		})
	}
}

// FuzzRandom is TestRandom with the fuzzer's choices, one for each byte.
func FuzzRandom(f *testing.F) {
	isolatetest.Require(f)
	for seed := range uint64(4) {
		choices := make([]byte, 60)
		rnd := rand.New(rand.NewPCG(seed, 2))
		for i := range choices {
			choices[i] = byte(rnd.Uint32())
		}
		f.Add(choices, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, choices []byte, perPod bool) {
		layout := Flat
		if perPod {
			layout = PerPod
		}
		choices = choices[:min(len(choices), 200)]
		w := newWorld(t, func(n int) int {
			if len(choices) == 0 {
				return 0
			}
			c := choices[0]
			choices = choices[1:]
			return int(c) % n
		}, layout)
		for len(choices) > 0 {
			w.step()
		}
		w.clean()
		w.compare()
	})
}

// world is a node with its pods.
type world struct {
	t      *testing.T
	choose func(n int) int // one of 0 to n-1
	node   Node
	h      *kernel
	path   string
	// base is the state of the node before EnsureNode.
	base netstate.State
	// live are the pods that the last ADD has wired. remains are the pods of which a kill
	// or the end of a sandbox may have left something. Both are in order of age.
	live, remains []Pod
	// dirty means that something of the node's own part was damaged, so that only Ensure
	// can restore it.
	dirty bool
	// count counts pods, boots the boots of the node, and done the steps by name.
	count, boots int
	done         map[string]int
}

// addresses is the number of pairs of addresses that pods have. The key of each pod is
// new.
const addresses = 6

// hardware are the ENIs of a world: the primary ENI, two secondary ENIs, and one to give
// to a pod as a whole.
var hardware = []ENI{
	{ID: "eni-a", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24"), netip.MustParsePrefix("2001:db8::10/64")}, MTU: 1500},
	{ID: "eni-b", Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24"), netip.MustParsePrefix("2001:db8::20/64")}, MTU: 1400},
	{ID: "eni-c", Device: 2, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.30/24"), netip.MustParsePrefix("2001:db8::30/64")}, MTU: 1400},
	{ID: "eni-d", Device: 3, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.40/24"), netip.MustParsePrefix("2001:db8::40/64")}},
}

func newWorld(t *testing.T, choose func(int) int, layout Layout) *world {
	w := &world{t: t, choose: choose, node: Node{Layout: layout}, done: map[string]int{}}
	for i, e := range hardware {
		e.MAC = net.HardwareAddr{6, 0, 0, 0, 0, byte(i)}
		if e.Device == 1 {
			for n := range addresses {
				a4, a6 := podAddresses(n)
				e.Sources = append(e.Sources, netstate.HostPrefix(a4), netstate.HostPrefix(a6))
			}
		}
		w.node.ENIs = append(w.node.ENIs, e)
	}
	w.boot()
	t.Cleanup(func() {
		w.h.Close()
		for _, p := range w.live {
			dropNetns(p.Netns)
		}
	})
	return w
}

// whole returns the ENI to give to a pod.
func (w *world) whole() ENI { return w.node.ENIs[3] }

// own returns the node without the ENI to give to a pod.
func (w *world) own() Node {
	n := w.node
	n.ENIs = n.ENIs[:3]
	return n
}

func (w *world) desired() Desired { return Desired{Node: w.own(), Pods: w.live} }

// podAddresses returns the n-th pair of addresses.
func podAddresses(n int) (a4, a6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 0x100+n))
}

// boot makes a new namespace for the node, with the hardware and the part that the system
// configures, and calls Ensure.
func (w *world) boot() {
	w.boots++
	w.path = fmt.Sprintf("/run/netns/world-%d-%d", os.Getpid(), w.boots)
	newNetns(w.t, w.path)
	var err error
	if w.h, err = openKernel(w.path); err != nil {
		w.t.Fatal(err)
	}
	for i := range w.node.ENIs {
		w.plug(i)
	}
	w.within(func(h *netlink.Handle) error {
		primary, err := h.LinkByName(w.linkOf(0))
		if err != nil {
			return err
		}
		for _, a := range w.node.ENIs[0].Addrs {
			addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
			if err := h.AddrAdd(primary, addr); err != nil {
				return err
			}
		}
		if err := h.LinkSetUp(primary); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: primary.Attrs().Index, Gw: net.IPv4(10, 0, 0, 1)})
	})
	if w.base, err = w.h.Observe(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.ensure()
}

// linkOf returns the name of the i-th ENI's link, which differs after each boot.
func (w *world) linkOf(i int) string { return fmt.Sprintf("ens%d-%d", i, w.boots) }

// plug makes the link of the i-th ENI.
func (w *world) plug(i int) {
	w.within(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = w.linkOf(i), w.node.ENIs[i].MAC
		// The VPC's end is in the node as well, because this test sends no packets.
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("vpc%d", i), PeerHardwareAddr: net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}}
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := h.LinkByName(veth.PeerName)
		if err != nil {
			return err
		}
		return h.LinkSetUp(peer)
	})
}

// within runs f in the node's namespace.
func (w *world) within(f func(*netlink.Handle) error) {
	w.t.Helper()
	err := rtnl.InNetns(w.h.ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (w *world) ensure() {
	w.t.Helper()
	if err := w.h.Ensure(w.t.Context(), w.desired()); err != nil {
		w.t.Fatalf("Ensure: %v", err)
	}
	w.dirty = false
}

// step does one of the things that can happen, chosen at random.
func (w *world) step() {
	steps := []struct {
		name string
		do   func()
	}{
		{"add", w.add}, {"add", w.add}, {"add", w.add}, {"del", w.del}, {"add on garbage", w.addOnGarbage},
		{"add where no room is", w.addTaken}, {"add on the node's address", w.addOnNode}, {"killed add", w.killedAdd}, {"killed del", w.killedDel},
		{"killed ensure", w.killedEnsure}, {"killed conversion", w.killedConversion}, {"killed sweep", w.killedSweep},
		{"end of a sandbox", w.endSandbox}, {"reboot", w.reboot}, {"damage", w.damage},
		{"compare", func() { w.clean(); w.compare() }},
	}
	s := steps[w.choose(len(steps))]
	w.done[s.name]++
	s.do()
}

// newPod returns a pod with addresses that no other pod has, of one family or both, in one
// of several modes. It returns nil if the choice is not possible.
func (w *world) newPod() *Pod {
	n := w.choose(addresses)
	a4, a6 := podAddresses(n)
	// The remains of a killed ADD or DEL have their addresses until their DEL.
	for _, p := range slices.Concat(w.live, w.remains) {
		if p.hasAddr(netstate.HostPrefix(a4)) || p.hasAddr(netstate.HostPrefix(a6)) {
			return nil
		}
	}
	addrs := []PodAddr{{Addr: a4, Table: 2 + w.choose(2)}, {Addr: a6, Table: 2 + w.choose(2)}}
	switch w.choose(4) {
	case 0:
		addrs = addrs[:1]
	case 1:
		addrs = addrs[1:]
	}
	w.count++
	p := &Pod{
		ContainerID: fmt.Sprintf("random-%s-%d", w.node.Layout, w.count), IfName: "eth0", Layout: w.node.Layout, MTU: 1400, Addrs: addrs,
	}
	p.Netns = fmt.Sprintf("/run/netns/%s-%d", p.ContainerID, os.Getpid()) // the fuzzer has several processes
	switch w.choose(6) {
	case 0:
		p.Mode.Bridge = &Bridge{}
	case 1:
		p.Mode.Whole = &WholeENI{ENI: w.whole()}
		p.MTU = 0
		if slices.ContainsFunc(slices.Concat(w.live, w.remains), func(p Pod) bool { return p.Mode.Whole != nil }) {
			return nil // the ENI is not free
		}
	case 2:
		if second := w.second(*p); second != nil {
			return second
		}
	}
	newNetns(w.t, p.Netns)
	return p
}

// second makes p a second interface of a live pod that has only one. It returns nil if
// there is no such pod.
func (w *world) second(p Pod) *Pod {
	for _, first := range w.live {
		alone := !slices.ContainsFunc(slices.Concat(w.live, w.remains), func(p Pod) bool { return p.Index > 0 && p.Netns == first.Netns })
		if first.Index == 0 && first.Mode == (Mode{}) && alone {
			p.ContainerID, p.Netns = first.ContainerID, first.Netns
			p.IfName, p.Index = fmt.Sprintf("eth%d", w.count), 1
			return &p
		}
	}
	return nil
}

func (w *world) add() {
	if p := w.newPod(); p != nil {
		w.mustAdd(*p)
	}
}

func (w *world) mustAdd(p Pod) {
	w.t.Helper()
	for range 1 + w.choose(2) {
		_, err := w.h.AddPod(w.t.Context(), p)
		for end := time.Now().Add(10 * time.Second); errors.Is(err, ErrAddressTaken) && time.Now().Before(end); {
			// The address leads to the link of a pod that lost its sandbox, until the kernel
			// deletes that link.
			_, err = w.h.AddPod(w.t.Context(), p)
		}
		if err != nil {
			w.t.Fatalf("AddPod %s: %v", p.ContainerID, err)
		}
	}
	if err := w.h.CheckPod(w.t.Context(), p); err != nil {
		w.t.Fatalf("CheckPod %s: %v", p.ContainerID, err)
	}
	w.live = append(w.live, p)
	if p.Mode.Bridge != nil {
		w.expectBridge()
	}
}

// expectBridge adds the bridge to base, because it stays without pods.
func (w *world) expectBridge() {
	if _, ok := w.base.Link(defaultBridge); !ok {
		w.base.Links = append(w.base.Links, netstate.Link{Name: defaultBridge, Kind: "bridge", MAC: (&Bridge{}).bridgeMAC().String(), Up: true, NoARP: true})
	}
}

// addTaken adds a pod to a sandbox that has an interface of the name already. The ADD
// fails and leaves nothing.
func (w *world) addTaken() {
	p := w.newPod()
	if p == nil || p.Index > 0 {
		return
	}
	w.clean()
	before := mustObserve(w.t, w.h)
	inside, err := openKernel(p.Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer inside.Close()
	if err := inside.ensureVirtual(w.t.Context(), netstate.Link{Name: p.IfName, Kind: "bridge"}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.h.AddPod(w.t.Context(), *p); !errors.Is(err, ErrInterfaceTaken) {
		w.t.Fatalf("AddPod = %v, want ErrInterfaceTaken", err)
	}
	dropNetns(p.Netns)
	if diff := cmp.Diff(before, mustObserve(w.t, w.h)); diff != "" {
		w.t.Fatalf("a failed AddPod of %+v left something (-before +after):\n%s", p.Mode, diff)
	}
}

// take removes a random pod from the live ones, and its second interface if the pod is a
// first one.
func (w *world) take() (taken []Pod) {
	if len(w.live) == 0 {
		return nil
	}
	p := w.live[w.choose(len(w.live))]
	w.live = slices.DeleteFunc(w.live, func(q Pod) bool {
		out := q.Netns == p.Netns && (p.Index == 0 || q.Index > 0)
		if out {
			taken = append(taken, q)
		}
		return out
	})
	return taken
}

func (w *world) del() {
	for _, p := range w.take() {
		do := w.h.DelPod
		if w.choose(2) == 0 {
			do = w.h.RetirePod
		}
		for range 1 + w.choose(2) {
			if err := do(w.t.Context(), p); err != nil {
				w.t.Fatalf("delete %s: %v", p.ContainerID, err)
			}
		}
		if p.Index == 0 {
			dropNetns(p.Netns)
		}
	}
}

// killedAdd stops an ADD after some of its steps. Half of the time it then repeats the
// ADD.
func (w *world) killedAdd() {
	p := w.newPod()
	if p == nil {
		return
	}
	if err := w.addUntil(*p, 1+w.choose(6)); err != nil {
		w.t.Fatal(err)
	}
	if p.Mode.Bridge != nil {
		if l, err := w.h.findLink(w.t.Context(), defaultBridge); err == nil && l.Index != 0 {
			w.expectBridge()
			w.dirty = w.dirty || !l.Up // made, and not yet set up
		}
	}
	if w.choose(2) == 0 {
		w.remains = append(w.remains, *p)
		return
	}
	w.mustAdd(*p)
}

// addUntil does the first steps of AddPod.
func (w *world) addUntil(p Pod, steps int) error {
	inside, err := openKernel(p.Netns)
	if err != nil {
		return err
	}
	defer inside.Close()
	a, err := w.h.newAddition(w.t.Context(), p, inside)
	if err != nil {
		return err
	}
	for i, step := range a.steps()[:steps] {
		if err := step(w.t.Context()); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// killedDel stops a DEL before it deletes or retires the link.
func (w *world) killedDel() {
	for _, p := range w.take() {
		d := &deletion{h: w.h, pod: p}
		_, err := d.unwire(w.t.Context(), false)
		if err == nil && w.choose(2) == 0 {
			err = w.releaseSome(d)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.remains = append(w.remains, p)
	}
}

// releaseSome does the part of a DEL that concerns links on the node, in some modes.
func (w *world) releaseSome(d *deletion) error {
	if d.link.Index != 0 {
		d.aliased = []rtnl.Link{d.link}
	}
	for _, m := range d.pod.everyMode() {
		if w.choose(2) == 0 {
			continue
		}
		if err := m.release(w.t.Context(), d); err != nil {
			return err
		}
	}
	return nil
}

// killedSweep stops a sweep after it has deleted the retired links.
func (w *world) killedSweep() {
	w.endSandbox()
	if err := w.h.withConn(w.t.Context(), func(c *rtnl.Conn) error { return c.DeleteLinkGroup(claims.LinkGroupRetired) }); err != nil {
		w.t.Fatal(err)
	}
}

// killedEnsure damages the node and stops the repair after some changes.
func (w *world) killedEnsure() {
	w.damage()
	w.apply(w.desired())
}

// killedConversion stops a conversion to the other layout, and then finishes it or goes
// back. Remains of pods cannot be converted, so they are deleted first.
func (w *world) killedConversion() {
	w.clean()
	other := PerPod
	if w.node.Layout == PerPod {
		other = Flat
	}
	old := w.node.Layout
	w.convert(other)
	w.apply(w.desired())
	if w.choose(2) == 0 {
		w.convert(old)
	}
	w.ensure()
}

func (w *world) convert(l Layout) {
	w.node.Layout = l
	for i := range w.live {
		w.live[i].Layout = l
	}
}

// apply carries out the first of the changes that d needs.
func (w *world) apply(d Desired) {
	w.dirty = true
	have, err := w.h.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	changes := d.Drift(have)
	if err := w.h.Apply(w.t.Context(), changes[:w.choose(len(changes)+1)]); err != nil {
		w.t.Fatal(err)
	}
}

// endSandbox ends a sandbox before any DEL.
func (w *world) endSandbox() {
	taken := w.take()
	for _, p := range taken {
		if p.Mode.Whole != nil {
			w.returnHardware(p)
		}
	}
	for _, p := range slices.Backward(taken) {
		if p.Index > 0 && len(taken) == 1 {
			// Its sandbox lives on with the first interface.
			w.remains = append(w.remains, p)
			return
		}
		dropNetns(p.Netns)
		for end := time.Now().Add(30 * time.Second); ; {
			link, err := w.h.findLink(w.t.Context(), p.HostLink())
			if err != nil {
				w.t.Fatal(err)
			}
			if link.Index == 0 {
				break
			}
			if time.Now().After(end) {
				w.t.Fatalf("%s stays", link.Name)
			}
		}
		w.remains = append(w.remains, p)
	}
}

// returnHardware moves a whole ENI to the node, as the kernel does with hardware when its
// sandbox ends.
func (w *world) returnHardware(p Pod) {
	inside, err := openKernel(p.Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer inside.Close()
	link, err := inside.findLink(w.t.Context(), p.IfName)
	if err == nil {
		err = inside.move(w.t.Context(), link.Index, "dev7", w.h.ns)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// reboot ends all sandboxes and the node's namespace. The runtime remembers its pods and
// sends their DEL after the boot.
func (w *world) reboot() {
	for _, p := range slices.Concat(w.live, w.remains) {
		dropNetns(p.Netns)
	}
	w.remains = append(w.remains, w.live...)
	w.live = nil
	if err := w.h.Close(); err != nil {
		w.t.Fatal(err)
	}
	dropNetns(w.path)
	w.boot()
}

// clean deletes the remains, with or without the facts that a DEL may lack, and sweeps.
func (w *world) clean() {
	for _, p := range w.remains {
		if w.choose(2) == 0 && p.Mode.Whole == nil && p.Index == 0 { // otherwise DEL needs the sandbox
			p.Netns = ""
		}
		if w.choose(2) == 0 {
			p.Addrs, p.Mode = nil, Mode{}
		}
		if err := w.h.DelPod(w.t.Context(), p); err != nil {
			w.t.Fatalf("DelPod %s: %v", p.ContainerID, err)
		}
	}
	w.remains = nil
	if err := w.h.Sweep(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// compare wants the namespace to have exactly the node, the live pods and base.
func (w *world) compare() {
	w.t.Helper()
	if w.dirty {
		w.ensure()
	}
	for _, p := range w.live {
		if err := w.h.CheckPod(w.t.Context(), p); err != nil {
			w.t.Fatalf("CheckPod %s: %v", p.ContainerID, err)
		}
	}
	have, err := w.h.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if changes := w.desired().Drift(have); len(changes) > 0 {
		w.t.Fatalf("drift: %v", changes)
	}
	if diff := cmp.Diff(w.want(have).String(), comparableState(have).String()); diff != "" {
		w.t.Fatalf("(-want +got):\n%s", diff)
	}
}

// want returns the state that the namespace should have, with the names that links have.
func (w *world) want(have netstate.State) netstate.State {
	n, err := w.own().Resolve(have.Links)
	if err != nil {
		w.t.Fatal(err)
	}
	ours := []netstate.State{n.State()}
	lent := ""
	for _, p := range w.live {
		ours = append(ours, p.HostState())
		if p.Mode.Whole != nil {
			lent = w.whole().MAC.String()
		}
	}
	own := netstate.Join(ours...)
	base := w.base
	base.Links = slices.DeleteFunc(slices.Clone(base.Links), func(l netstate.Link) bool {
		_, ok := own.Link(l.Name)
		return ok || l.MAC == lent
	})
	for i, l := range base.Links {
		if l.Kind == "bridge" { // no pod has it
			base.Links[i], _ = have.Link(l.Name)
		}
	}
	return comparableState(netstate.Join(own, base))
}

// comparableState returns s without settings, which Drift compares, and without the facts about
// links that only wanted or only observed states have.
func comparableState(s netstate.State) netstate.State {
	s.Sysctls = nil
	s.Links = slices.Clone(s.Links)
	for i := range s.Links {
		l := &s.Links[i]
		l.Peer = ""
		if l.Kind == "veth" && l.Group == 0 {
			l.Kind = ""
		}
		if l.Kind == "bridge" {
			l.MTU = 0
		}
	}
	return s.Canonical()
}
