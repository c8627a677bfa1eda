// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

// silence is the time that a test waits for an answer that must not arrive.
const silence = 300 * time.Millisecond

// Addresses of the node under test, its pods, and another node.
var (
	node1, node16 = netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("2001:db8:1:1::10")
	spare         = netip.MustParseAddr("10.0.1.12") // another address of the primary ENI
	podA, podA6   = netip.MustParseAddr("10.0.1.11"), netip.MustParseAddr("2001:db8:1:1::11")
	second        = netip.MustParseAddr("10.0.1.20")
	second6       = netip.MustParseAddr("2001:db8:1:1::20")
	podB, podB6   = netip.MustParseAddr("10.0.1.21"), netip.MustParseAddr("2001:db8:1:1::21")
	node2, node26 = netip.MustParseAddr("10.0.2.10"), netip.MustParseAddr("2001:db8:1:2::10")
	gateway       = netip.MustParseAddr("10.0.1.1")
)

// world is a VPC with a node that has a pod on each of two ENIs, wired with the
// rules of amazon-vpc-cni-k8s, and without any translation yet.
type world struct {
	*fabric.Fabric
	node, other *fabric.Netns
	a, b        *fabric.Netns // pods on the primary and on the second ENI
	snat        *snat.Handle
}

func newWorld(t *testing.T) *world {
	t.Helper()
	isolatetest.Require(t)
	f, err := fabric.New(t.Context(), fabric.Config{
		VPC: prefixes("10.0.0.0/16", "2001:db8:1::/56"),
		Subnets: []fabric.Subnet{
			{ID: "subnet-a", Prefixes: prefixes("10.0.1.0/24", "2001:db8:1:1::/64")},
			{ID: "subnet-b", Prefixes: prefixes("10.0.2.0/24", "2001:db8:1:2::/64")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Fabric: f}
	for _, e := range []fabric.ENI{
		{ID: "eni-1", Instance: "node-1", Subnet: "subnet-a", Addr: node1, Addrs: []netip.Addr{node16, spare, podA, podA6}, Public: true},
		{ID: "eni-2", Instance: "node-1", Subnet: "subnet-a", Addr: second, Addrs: []netip.Addr{second6, podB, podB6}, Device: 1, Public: true},
		{ID: "eni-3", Instance: "node-2", Subnet: "subnet-b", Addr: node2, Addrs: []netip.Addr{node26}, Public: true},
	} {
		e.MAC = net.HardwareAddr{2, 0, 0, 0, 0, e.ID[4]}
		w.attach(t, e)
	}
	w.node, w.other = f.Instance("node-1"), f.Instance("node-2")
	w.wire(t)
	if err := f.WaitUp(t.Context(), "eni-2"); err != nil {
		t.Fatal(err)
	}
	w.a = w.pod(t, "eniaaaaaaaaaaa", podA, podA6)
	w.b = w.pod(t, "enibbbbbbbbbbb", podB, podB6)
	w.snat = open(t, w.node)
	for _, at := range []struct {
		ns   *fabric.Netns
		addr netip.Addr
	}{{w.a, podA}, {w.a, podA6}, {w.b, podB}, {w.b, podB6}, {w.other, node2}, {w.other, node26}} {
		stop, err := at.ns.Echo(t.Context(), netip.AddrPortFrom(at.addr, fabric.EchoPort))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	return w
}

func (w *world) attach(t *testing.T, e fabric.ENI) {
	t.Helper()
	if w.Instance(e.Instance) == nil {
		if _, err := w.AddInstance(e.Instance); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Attach(e); err != nil {
		t.Fatal(err)
	}
	if !e.Primary() {
		return
	}
	if err := w.Boot(t.Context(), e.Instance); err != nil {
		t.Fatal(err)
	}
}

// wire configures the node's second ENI and the routing rules that belong to no pod.
func (w *world) wire(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv4/conf/ens5/rp_filter": "2", "ipv4/conf/ens6/rp_filter": "2",
	} {
		if err := w.node.Sysctl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	in(t, w.node, func() error {
		ens6, err := netlink.LinkByName("ens6")
		if err != nil {
			return err
		}
		index := ens6.Attrs().Index
		marked4, marked6 := rule(1024, unix.AF_INET, 254), rule(1024, unix.AF_INET6, 254)
		for _, m := range []*netlink.Rule{marked4, marked6} {
			bit := uint32(0x80)
			m.Mark, m.Mask = bit, &bit
		}
		number, mask := uint32(1), uint32(0xff)
		answer4, answer6 := rule(1024, unix.AF_INET, 2), rule(1024, unix.AF_INET6, 2)
		for _, m := range []*netlink.Rule{answer4, answer6} {
			m.Mark, m.Mask = number, &mask
		}
		own := rule(32765, unix.AF_INET, 2)
		own.Src = ipNet(second)
		return first(
			netlink.LinkSetUp(ens6),
			netlink.AddrAdd(ens6, &netlink.Addr{IPNet: ipNet(second)}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(gateway), LinkIndex: index, Scope: netlink.SCOPE_LINK, Table: 2}),
			netlink.RouteAdd(&netlink.Route{Dst: all(gateway), Gw: gateway.AsSlice(), LinkIndex: index, Table: 2}),
			netlink.RouteAdd(&netlink.Route{Dst: all(fabric.Gateway6), Gw: fabric.Gateway6.AsSlice(), LinkIndex: index, Table: 2, Flags: int(netlink.FLAG_ONLINK)}),
			netlink.RuleAdd(marked4), netlink.RuleAdd(marked6), netlink.RuleAdd(answer4), netlink.RuleAdd(answer6), netlink.RuleAdd(own),
		)
	})
}

// pod makes a pod with an address of each family. Table 2 routes for podB.
func (w *world) pod(t *testing.T, link string, addrs ...netip.Addr) *fabric.Netns {
	t.Helper()
	pod, err := fabric.CreateNetns("/run/netns/" + link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Delete(); err != nil {
			t.Error(err)
		}
	})
	hostMAC, podMAC := net.HardwareAddr{2, 1, 0, 0, 0, link[3]}, net.HardwareAddr{2, 2, 0, 0, 0, link[3]}
	in(t, w.node, func() error {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.HardwareAddr, veth.PeerName, veth.PeerHardwareAddr = link, hostMAC, "eth0", podMAC
		return withFD(pod.Path(), func(fd int) error {
			veth.PeerNamespace = netlink.NsFd(fd)
			return netlink.LinkAdd(veth)
		})
	})
	in(t, pod, func() error { return wireSandbox(hostMAC, addrs) })
	in(t, w.node, func() error { return wireHostSide(link, podMAC, addrs) })
	return pod
}

func wireSandbox(hostMAC net.HardwareAddr, addrs []netip.Addr) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return err
	}
	for _, a := range addrs {
		hop := netip.MustParseAddr("169.254.1.1")
		if a.Is6() {
			hop = netip.MustParseAddr("fe80::1")
		}
		index := eth0.Attrs().Index
		err := first(
			netlink.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(hop), LinkIndex: index, Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{Dst: all(hop), Gw: hop.AsSlice(), LinkIndex: index}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: hop.AsSlice(), HardwareAddr: hostMAC}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func wireHostSide(link string, podMAC net.HardwareAddr, addrs []netip.Addr) error {
	veth, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	for _, a := range addrs {
		family := unix.AF_INET
		if a.Is6() {
			family = unix.AF_INET6
		}
		to, from := rule(512, family, 254), rule(1536, family, 2)
		to.Dst, from.Src = ipNet(a), ipNet(a)
		err := first(
			netlink.NeighSet(&netlink.Neigh{LinkIndex: veth.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: podMAC}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(a), LinkIndex: veth.Attrs().Index, Scope: netlink.SCOPE_LINK}),
			netlink.RuleAdd(to),
		)
		if err == nil && (a == podB || a == podB6) {
			err = netlink.RuleAdd(from)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", a, err)
		}
	}
	return nil
}

func rule(priority, family, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Family, r.Table = priority, family, table
	return r
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// all returns the prefix of all addresses in the family of a.
func all(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}

// withFD opens a file while fn runs.
func withFD(path string, fn func(fd int) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(int(f.Fd()))
}

func first(errs ...error) error {
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func in(t *testing.T, n *fabric.Netns, fn func() error) {
	t.Helper()
	if err := n.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// asks checks the source address that the server sees, over TCP and UDP. The zero
// address means that no answer may arrive.
func (w *world) asks(t *testing.T, n *fabric.Netns, from netip.Addr, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		limit := 5 * time.Second
		if !want.IsValid() {
			limit = silence
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		seen, err := n.Ask(ctx, network, netip.AddrPortFrom(from, 0), to)
		cancel()
		if seen.Addr() != want {
			t.Errorf("%s from %v to %v: the server saw %v, %v; want %v", network, from, to, seen, err, want)
		}
	}
}

func echoAt(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, fabric.EchoPort) }

// watch captures the packets of the node's ENIs. It returns a function that checks that
// all packets between the node and far used the link, and that the VPC dropped none.
func (w *world) watch(t *testing.T, link string) (check func(far netip.Addr)) {
	t.Helper()
	captures := map[string]*fabric.Capture{}
	for _, name := range []string{"ens5", "ens6"} {
		c, err := w.node.Capture(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		captures[name] = c
	}
	return func(far netip.Addr) {
		t.Helper()
		for name, c := range captures {
			packets, err := c.Packets()
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, p := range packets {
				if f, ok := p.Flow(); ok && (f.Src.Addr() == far || f.Dst.Addr() == far) {
					found = append(found, p.String())
				}
			}
			if (name == link) != (len(found) > 0) {
				t.Errorf("packets on %s: %d, want them on %s:\n%s", name, len(found), link, strings.Join(found, "\n"))
			}
		}
		w.noSpoofed(t)
	}
}

// noSpoofed checks that each packet left the node by the ENI that owns its source.
func (w *world) noSpoofed(t *testing.T) {
	t.Helper()
	d, err := w.Drops()
	if err != nil {
		t.Fatal(err)
	}
	if d.Spoofed["eni-1"] != 0 || d.Spoofed["eni-2"] != 0 {
		t.Errorf("packets left by an ENI that does not own their source: %v", d.Spoofed)
	}
}
