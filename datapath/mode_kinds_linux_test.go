// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"golang.org/x/sys/unix"
)

// vmEnv is set where the tests run in the emulated machine of internal/vm.
const vmEnv = "VPCNET_VM"

// TestOtherKinds tests the modes that need 802.1Q and ipvlan links. If this kernel has none,
// the test of internal/vm runs it on one that does.
func TestOtherKinds(t *testing.T) {
	isolatetest.Require(t)
	if lacking := lackingKind(t); lacking != "" {
		if os.Getenv(vmEnv) != "" {
			t.Fatalf("this kernel has no links of kind %s", lacking)
		}
		t.Logf("no links of kind %s here: internal/vm runs this test", lacking)
		return
	}
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			for _, enforcement := range []datapath.Enforcement{datapath.Standard, datapath.Strict} {
				t.Run("branch/"+string(enforcement), func(t *testing.T) { testBranchPod(t, layout, enforcement) })
			}
			t.Run("enforcement", func(t *testing.T) { testEnforcement(t, layout) })
			t.Run("ipvlan", func(t *testing.T) { testIPVLAN(t, layout) })
			t.Run("watch", func(t *testing.T) { testWatchKinds(t, layout) })
			t.Run("first packet", func(t *testing.T) { testFirstPacketKinds(t, layout) })
		})
	}
}

// lackingKind tries links of the kinds that the tests need, and returns one that the
// kernel lacks.
func lackingKind(t *testing.T) string {
	lacking := ""
	in(t, newNetns(t), func(h *netlink.Handle) error {
		named := func(name string, parent int) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = name, parent
			return a
		}
		below := &netlink.Veth{LinkAttrs: named("a", 0), PeerName: "b"}
		if err := h.LinkAdd(below); err != nil {
			return err
		}
		for kind, link := range map[string]netlink.Link{
			"vlan":   &netlink.Vlan{LinkAttrs: named("v", below.Index), VlanId: 1},
			"ipvlan": &netlink.IPVlan{LinkAttrs: named("i", below.Index), Mode: netlink.IPVLAN_MODE_L2},
		} {
			err := h.LinkAdd(link)
			if errors.Is(err, unix.EOPNOTSUPP) {
				lacking = kind
			} else if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			_ = h.LinkDel(link)
		}
		return nil
	})
	return lacking
}

// branch makes a branch ENI on the trunk, the lab's second ENI, and a pod on it.
func (l *lab) branch(enforcement datapath.Enforcement, id string) datapath.Pod {
	l.t.Helper()
	b := testBranch(enforcement)
	b.Trunk = l.n.ENIs[1]
	b.Trunk.Link = "" // found by MAC
	l.AttachBranch(*b)
	return datapath.Pod{
		ContainerID: id, IfName: "eth0", Netns: newNetns(l.t), Layout: l.n.Layout, MTU: 1400, Addrs: branchAddrs(),
		Mode: datapath.Mode{Branch: b},
	}
}

// connect opens a TCP connection from the node to a listener in the sandbox.
func (l *lab) connect(p datapath.Pod, to netip.Addr) error {
	var listener net.Listener
	on(l.t, p.Netns, func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, 80)))
		return err
	})
	defer listener.Close()
	return try(l.node, func() error {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// received returns the number of packets that came in by a link of the node.
func (l *lab) received(link string) (n uint64) {
	in(l.t, l.node, func(h *netlink.Handle) error {
		found, err := h.LinkByName(link)
		if err == nil {
			n = found.Attrs().Statistics.RxPackets
		}
		return err
	})
	return n
}

func testBranchPod(t *testing.T, layout datapath.Layout, enforcement datapath.Enforcement) {
	l := newLab(t, layout)
	l.n.Enforcement = enforcement
	l.ensure()
	p, other := l.branch(enforcement, "one"), l.pod(1, "two")
	l.add(other)
	before := l.state()
	for range 2 {
		l.add(p)
		if err := l.h.CheckPod(t.Context(), p); err != nil {
			t.Errorf("CheckPod: %v", err)
		}
	}
	for i, a := range p.Addrs {
		l.listen(p.Netns, a.Addr)
		l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
		seen := l.received("vlan.eth.5")
		l.expect(other.Netns, other.Addrs[i].Addr, a.Addr)
		if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
			t.Errorf("node to pod %s: %v", a.Addr, err)
		}
		if err := l.connect(p, a.Addr); err != nil {
			t.Errorf("node to pod %s by TCP: %v", a.Addr, err)
		}
		// Fewer packets may be neighbour discovery. The last packet, the FIN, has no answer that
		// tells when it has come.
		passed := l.received("vlan.eth.5") >= seen+5
		for began := time.Now(); enforcement == datapath.Strict && !passed && time.Since(began) < time.Minute; passed = l.received("vlan.eth.5") >= seen+5 {
			time.Sleep(10 * time.Millisecond)
		}
		if passed != (enforcement == datapath.Strict) {
			t.Errorf("packets of this node to pod %s passed the branch ENI: %t", a.Addr, passed)
		}
	}
	for _, a := range []netip.Addr{host4, host6} {
		l.listen(l.node, a)
		l.expect(p.Netns, p.Addrs[btoi(a.Is6())].Addr, a)
	}
	p = l.adoptBranch(p, before)
	l.add(p)
	l.delVariants(p, before)
}

// adoptBranch makes p a pod that another program has wired, by other names and without aliases,
// adopts it, disowns and adopts it again, and deletes it by its key alone, with its sandbox and
// without. It returns p with another sandbox.
func (l *lab) adoptBranch(p datapath.Pod, before string) datapath.Pod {
	t := l.t
	t.Helper()
	key := datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}
	for _, ended := range []bool{false, true} {
		if ended {
			p.Netns = newNetns(t) // without the sockets that keep a namespace
		}
		l.add(p)
		foreign := p.HostLink()[:4] + "0f0e0d0c0b0"
		if p.HostLink()[:3] == "eni" {
			foreign = "eni0f0e0d0c0b0"
		}
		in(t, l.node, func(h *netlink.Handle) error {
			link := linkNamed(t, h, p.HostLink())
			branch := linkNamed(t, h, "vlan.eth.5")
			return errors.Join(h.LinkSetAlias(link, ""), h.LinkSetAlias(branch, ""), h.LinkDelAltName(branch, "vpcnet."+p.HostLink()))
		})
		if err := l.h.RenameLink(t.Context(), p.HostLink(), foreign); err != nil {
			t.Fatal(err)
		}
		if p.HostLink()[:3] == "eni" { // under strict, the rules have the old name
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
		}
		d := datapath.Desired{Node: *l.n, Pods: []datapath.Pod{p}}
		adopt := func() {
			t.Helper()
			if err := errors.Join(l.h.AdoptPod(t.Context(), p, foreign), l.h.Ensure(t.Context(), d)); err != nil {
				t.Fatal(err)
			}
			s, err := l.h.Observe(t.Context())
			if err != nil || len(d.Drift(s)) > 0 {
				t.Errorf("drift %v, %v, want none", d.Drift(s), err)
			}
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
		}
		adopt()
		if err := l.h.DisownPod(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if s := l.state(); contains(s, "adopted") || contains(s, "host=") {
			t.Errorf("DisownPod leaves\n%v", s)
		}
		adopt()
		if ended {
			removeNetns(t, p.Netns)
			for l.hasLink(foreign) && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
		for range 2 {
			if err := l.h.RetirePod(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		// Without the host link nothing tells the addresses, whose rules Sweep deletes.
		if err := l.h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("DEL of an adopted pod left something (-before +after):\n%s", diff)
		}
	}
	p.Netns = newNetns(t)
	return p
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// delVariants deletes a pod with all, some and few of the facts that a runtime may give,
// and each time wants the state from before its ADD.
func (l *lab) delVariants(p datapath.Pod, before string) {
	l.t.Helper()
	key := datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}
	withNetns := key
	withNetns.Netns = p.Netns
	for _, d := range []datapath.Pod{p, withNetns, key} {
		for range 2 {
			if err := l.h.DelPod(l.t.Context(), d); err != nil {
				l.t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			l.t.Errorf("DEL left something (-before +after):\n%s", diff)
		}
		if d.Netns == "" {
			removeNetns(l.t, p.Netns)
			p.Netns = newNetns(l.t)
		}
		// The kernel ends a sandbox some time later, and until then ipvlan refuses the
		// addresses that links in it have.
		for range 100 {
			_, err := l.h.AddPod(l.t.Context(), p)
			if !errors.Is(err, unix.EADDRINUSE) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		l.add(p)
	}
	removeNetns(l.t, p.Netns)
	for l.hasLink(p.HostLink()) && l.t.Context().Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := l.h.DelPod(l.t.Context(), p); err != nil {
		l.t.Fatal(err)
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		l.t.Errorf("DEL without sandbox left something (-before +after):\n%s", diff)
	}
}

func (l *lab) hasLink(name string) bool { return contains(l.state(), "link set dev "+name+" ") }

// testEnforcement changes a node from one enforcement to the other and back.
func testEnforcement(t *testing.T, layout datapath.Layout) {
	l := newLab(t, layout)
	l.n.Enforcement = datapath.Standard
	l.ensure()
	before := l.state()
	l.n.Enforcement = datapath.Strict
	l.ensure()
	if s := l.state(); contains(s, "pref 0 from all lookup local") || !contains(s, "-4 rule add pref 20 from all lookup local", "-6 rule add pref 20 from all lookup local", "ip_early_demux=0") {
		t.Errorf("Strict has other rules or settings than it should:\n%s", s)
	}
	if _, err := ask(l.node, netip.Addr{}, outside4); err != nil {
		t.Errorf("the node under strict enforcement: %v", err)
	}
	l.n.Enforcement = datapath.Standard
	l.ensure()
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("Standard after Strict differs from Standard before (-before +after):\n%s", diff)
	}
}

func testIPVLAN(t *testing.T, layout datapath.Layout) {
	l := newLab(t, layout)
	l.ensure()
	before := l.state()
	p, sibling := l.pod(1, "one"), l.pod(1, "two")
	sibling.Addrs = []datapath.PodAddr{
		{Addr: netip.MustParseAddr("10.0.0.112"), Table: 2}, {Addr: netip.MustParseAddr("2001:db8:0:1:b::2"), Table: 2},
	}
	mode := datapath.IPVLAN{
		ENI: l.n.ENIs[1], Direct: prefixes("10.0.0.0/16", "198.51.100.0/24", "2001:db8::/56"), Except: prefixes("10.0.0.10/32", "2001:db8:0:1::10/128"),
	}
	p.Mode.IPVLAN, sibling.Mode.IPVLAN = &mode, &mode
	for range 2 {
		l.add(p)
		l.add(sibling)
		if err := l.h.CheckPod(t.Context(), p); err != nil {
			t.Errorf("CheckPod: %v", err)
		}
	}
	for _, a := range []netip.Addr{host4, host6} {
		l.listen(l.node, a)
		l.expect(p.Netns, p.Addrs[btoi(a.Is6())].Addr, a)
	}
	for i, a := range p.Addrs {
		l.listen(p.Netns, a.Addr)
		seen := l.received(p.HostLink())
		if a.Addr.Is4() {
			for range 5 {
				l.expect(p.Netns, a.Addr, outside4)
			}
		}
		l.expect(sibling.Netns, sibling.Addrs[i].Addr, a.Addr)
		if passed := l.received(p.HostLink()) >= seen+5; passed && a.Addr.Is4() {
			t.Errorf("packets of %s into the VPC passed the node", a.Addr)
		}
		l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
		if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
			t.Errorf("node to pod %s: %v", a.Addr, err)
		}
	}
	for _, d := range []datapath.Pod{p, sibling} {
		if err := l.h.DelPod(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	p.Netns = newNetns(t) // the listeners still hold the old one
	l.add(p)
	l.delVariants(p, before)
	if s := observe(t, sibling.Netns); contains(s, "eth0") || contains(s, "node0") {
		t.Errorf("DEL left something in the sandbox:\n%s", s)
	}
}

// testFirstPacketKinds is TestFirstPacket for pods with an ipvlan link and on branch ENIs.
// They get packets from the VPC, and those with an ipvlan link also from the node.
func testFirstPacketKinds(t *testing.T, layout datapath.Layout) {
	l := newLab(t, layout)
	l.ensure()
	out, host := socket(t, l.outside), socket(t, l.node)
	exchange := func(p datapath.Pod, senders ...*net.UDPConn) {
		t.Helper()
		c := socket(t, p.Netns)
		defer c.Close()
		l.add(p)
		var want []string
		for i, s := range senders {
			for _, a := range p.Addrs {
				text := fmt.Sprintf("%d to %s", i, a.Addr)
				want = append(want, text)
				if _, err := s.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(a.Addr, freshPort)); err != nil {
					t.Error(err)
				}
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, got(c, len(want))); diff != "" {
			t.Errorf("packets to the fresh pod %s (-sent +received):\n%s", p.ContainerID, diff)
		}
		if err := l.h.DelPod(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		removeNetns(t, p.Netns)
	}
	warm := l.pod(1, "warm") // for the neighbours on the way
	exchange(warm, out)
	for n := range 20 {
		p := l.pod(1, fmt.Sprintf("direct%d", n))
		// The kernel still has the addresses of the last pod for a while.
		p.Addrs = []datapath.PodAddr{
			{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(113 + n%14)}), Table: 2},
			{Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1:b::%x", n+1)), Table: 2},
		}
		p.Mode.IPVLAN = &datapath.IPVLAN{ENI: l.n.ENIs[1], Direct: prefixes("10.0.0.0/16", "2001:db8::/56")}
		exchange(p, host, out)
	}
	b := l.branch(datapath.Standard, "branch")
	for n := range 5 {
		b.ContainerID, b.Netns = fmt.Sprintf("branch%d", n), newNetns(t)
		exchange(b, out)
	}
}
