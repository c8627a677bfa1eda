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

// TestRandom goes through random rows of all that happens to a node and its pods:
// ADD and DEL in each mode, kills in the middle of either, of EnsureNode and of a
// conversion to the other layout, sandboxes that end, reboots, and garbage of all
// kinds. Whatever came before, ADD works; and when the remains have been deleted the
// node is exactly what is desired.
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

// FuzzRandom is TestRandom with the fuzzer's choices, of which a byte makes one.
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

// world is a node with pods that come, go and die.
type world struct {
	t      *testing.T
	choose func(n int) int // one of 0 to n-1
	node   Node
	h      *Handle
	path   string
	// base is what is on the node beside ours.
	base netstate.State
	// live are the pods whose last ADD succeeded, remains those that a kill or the
	// end of a sandbox has left something of, both in order of age.
	live, remains []Pod
	// dirty means that something of the node's own was damaged, so that only Ensure
	// makes it exact.
	dirty bool
	// count of pods, and boots of the node.
	count, boots int
	done         map[string]int
}

// addresses bounds how many pods have different addresses; every pod's key is new.
const addresses = 6

// hardware are the ENIs of a world: the primary, two whose addresses pods have, and
// one for a pod of its own.
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

// whole is the ENI that is not the node's.
func (w *world) whole() ENI { return w.node.ENIs[3] }

// own is the node without that.
func (w *world) own() Node {
	n := w.node
	n.ENIs = n.ENIs[:3]
	return n
}

func (w *world) desired() Desired { return Desired{Node: w.own(), Pods: w.live} }

// podAddresses are the n-th pair.
func podAddresses(n int) (a4, a6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 0x100+n))
}

// boot makes a new node with the hardware and what the system configures, and has
// EnsureNode do its part.
func (w *world) boot() {
	w.boots++
	w.path = fmt.Sprintf("/run/netns/world-%d-%d", os.Getpid(), w.boots)
	newNetns(w.t, w.path)
	var err error
	if w.h, err = Open(w.path); err != nil {
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

// linkOf is the name of the i-th ENI's link, another one after each boot.
func (w *world) linkOf(i int) string { return fmt.Sprintf("ens%d-%d", i, w.boots) }

// plug makes the link of the i-th ENI.
func (w *world) plug(i int) {
	w.within(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = w.linkOf(i), w.node.ENIs[i].MAC
		// The VPC's end is as well in the node: nobody sends.
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

// step does one thing.
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

// newPod has addresses that no live pod has, of either family or both, and any mode;
// nil if there is none.
func (w *world) newPod() *Pod {
	n := w.choose(addresses)
	a4, a6 := podAddresses(n)
	// What a killed ADD or DEL has left keeps its addresses until its DEL.
	for _, p := range slices.Concat(w.live, w.remains) {
		if p.has(netstate.HostPrefix(a4)) || p.has(netstate.HostPrefix(a6)) {
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

// second makes p a further interface of a live pod that has one; nil if there is
// none.
func (w *world) second(p Pod) *Pod {
	for _, first := range w.live {
		alone := !slices.ContainsFunc(slices.Concat(w.live, w.remains), func(p Pod) bool { return p.Index > 0 && p.Netns == first.Netns })
		if first.Index == 0 && first.Mode.isVeth() && alone {
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
			// By the link of a pod whose sandbox ended, until the kernel takes it away.
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
		w.keepBridge()
	}
}

// keepBridge notes that there is a bridge: it stays without pods.
func (w *world) keepBridge() {
	if _, ok := w.base.Link(DefaultBridge); !ok {
		w.base.Links = append(w.base.Links, netstate.Link{Name: DefaultBridge, Kind: "bridge", MAC: (&Bridge{}).mac().String(), Up: true})
	}
}

// addTaken adds to a sandbox that has a foreign interface of that name, which fails
// and leaves nothing.
func (w *world) addTaken() {
	p := w.newPod()
	if p == nil || p.Index > 0 {
		return
	}
	w.clean()
	before := mustObserve(w.t, w.h)
	inside, err := Open(p.Netns)
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

// take removes a random pod from the live ones, and with the first interface of a
// pod its second.
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

// killedAdd stops after some of ADD's system calls; half of the time ADD is tried
// again.
func (w *world) killedAdd() {
	p := w.newPod()
	if p == nil {
		return
	}
	if err := w.addUntil(*p, w.choose(4)); err != nil {
		w.t.Fatal(err)
	}
	if p.Mode.Bridge != nil {
		if l, err := w.h.findLink(w.t.Context(), DefaultBridge); err == nil && l.Index != 0 {
			w.keepBridge()
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
	ctx := w.t.Context()
	inside, err := Open(p.Netns)
	if err != nil {
		return err
	}
	defer inside.Close()
	if p, err = w.h.resolvePod(ctx, p); err != nil {
		return err
	}
	var link rtnl.Link
	veth := p.Mode.isVeth()
	for i, step := range []func() error{
		func() (err error) {
			if p.Mode.Whole == nil {
				link, err = w.h.createVeth(ctx, p, inside.ns)
			}
			return err
		},
		func() (err error) {
			if veth {
				return inside.wireSandbox(ctx, p, link.PeerIndex)
			}
			_, err = w.h.place(ctx, p, inside)
			return err
		},
		func() error {
			if veth {
				return w.h.wireHost(ctx, p, link.Index)
			}
			return inside.repairInside(ctx, p)
		},
		func() error {
			if veth {
				return nil
			}
			return w.h.applyHost(ctx, p, false)
		},
	} {
		if i > steps {
			return nil
		}
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// killedDel stops before the link is deleted, or retired.
func (w *world) killedDel() {
	for _, p := range w.take() {
		link, _, err := w.h.unwire(w.t.Context(), p)
		if err == nil && w.choose(2) == 0 {
			err = w.h.delLink(w.t.Context(), p, link)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.remains = append(w.remains, p)
	}
}

// killedSweep deletes the retired links and not what else a sweep finds.
func (w *world) killedSweep() {
	w.endSandbox()
	var b rtnl.Batch
	b.Add(unix.RTM_DELLINK, rtnl.Ack, rtnl.LinkHeader(0, 0, 0), func() { b.Attr32(unix.IFLA_GROUP, claims.LinkGroupRetired) })
	if err := w.h.withConn(w.t.Context(), func(c *rtnl.Conn) error {
		_, err := c.Do(&b)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

// killedEnsure damages the node and stops the repair after some changes.
func (w *world) killedEnsure() {
	w.damage()
	w.apply(w.desired())
}

// killedConversion stops on the way to the other layout and then goes there or
// back. Pods that are there no more cannot be converted: what
// they have goes first.
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

// returnHardware does with a whole ENI what the kernel does with hardware when its
// sandbox ends.
func (w *world) returnHardware(p Pod) {
	inside, err := Open(p.Netns)
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

// reboot ends all sandboxes and the node's namespace. Who has made pods remembers
// them, and DEL comes for some after the boot.
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

// clean deletes the remains, with or without what DEL may know, and sweeps.
func (w *world) clean() {
	for _, p := range w.remains {
		if w.choose(2) == 0 && p.Mode.Whole == nil && p.Index == 0 { // else something is in the sandbox
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

// compare wants exactly the node, the pods that live and what is not ours.
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
	if diff := cmp.Diff(w.want(have).String(), barely(have).String()); diff != "" {
		w.t.Fatalf("(-want +got):\n%s", diff)
	}
}

// want is all that shall be there, with the names that links have.
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
		if l.Kind == "bridge" { // no pod wants it
			base.Links[i], _ = have.Link(l.Name)
		}
	}
	return barely(netstate.Join(own, base))
}

// barely returns s without settings, which Drift compares, and without what only
// a wanted or only an observed state knows of links.
func barely(s netstate.State) netstate.State {
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
