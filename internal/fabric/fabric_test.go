// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(fewEnv) != "" {
		os.Exit(runWithFewCapabilities())
	}
	isolatetest.Test(m)
}

// silence is how long a test waits to see that there is no answer.
const silence = 300 * time.Millisecond

// patience is how long a test waits for an answer.
const patience = 30 * time.Second

var vpcConfig = fabric.Config{
	VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8:1::/56")},
	Subnets: []fabric.Subnet{
		{ID: "subnet-a", Zone: "us-west-2a", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("2001:db8:1:1::/64")}},
		{ID: "subnet-b", Zone: "us-west-2b", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("2001:db8:1:2::/64")}},
	},
}

// newFabric builds two nodes in two zones, each with a booted primary ENI. node-1
// also has a second ENI, which is not configured.
func newFabric(t *testing.T) *fabric.Fabric {
	t.Helper()
	isolatetest.Require(t)
	f, err := fabric.New(t.Context(), vpcConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, e := range []fabric.ENI{
		{ID: "eni-1", Instance: "node-1", Device: 0, Subnet: "subnet-a", MAC: mac(1), Addr: ip("10.0.1.10"), Addrs: []netip.Addr{ip("10.0.1.11"), ip("2001:db8:1:1::10")}, Public: true},
		{ID: "eni-2", Instance: "node-1", Device: 1, Subnet: "subnet-a", MAC: mac(2), Addr: ip("10.0.1.20"), Addrs: []netip.Addr{ip("10.0.1.21")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.32/28"), netip.MustParsePrefix("2001:db8:1:1:f::/80")}},
		{ID: "eni-3", Instance: "node-2", Device: 0, Subnet: "subnet-b", MAC: mac(3), Addr: ip("10.0.2.10"), Addrs: []netip.Addr{ip("2001:db8:1:2::10")}, Public: true},
	} {
		if f.Instance(e.Instance) == nil {
			if _, err := f.AddInstance(e.Instance); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Attach(e); err != nil {
			t.Fatal(err)
		}
		if e.Primary() {
			if err := f.Boot(t.Context(), e.Instance); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0, n} }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func echo(t *testing.T, n *fabric.Netns, a netip.Addr) {
	t.Helper()
	stop, err := n.Echo(t.Context(), netip.AddrPortFrom(a, fabric.EchoPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// wantSource checks which source address the echo server at to sees, over UDP and TCP.
// The zero Addr means that there must be no answer.
func wantSource(t *testing.T, n *fabric.Netns, from, to, want netip.Addr) {
	t.Helper()
	wantSourceAt(t, n, from, netip.AddrPortFrom(to, fabric.EchoPort), want)
}

func wantSourceAt(t *testing.T, n *fabric.Netns, from netip.Addr, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		limit := patience
		if !want.IsValid() {
			limit = silence
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		var local netip.AddrPort
		if from.IsValid() {
			local = netip.AddrPortFrom(from, 0)
		}
		seen, err := n.Ask(ctx, network, local, to)
		cancel()
		if seen.Addr() != want {
			t.Errorf("%s from %v to %v: the server saw %v, want %v (error: %v)", network, from, to, seen, want, err)
		}
	}
}

// run calls fn in the namespace.
func run(t *testing.T, n *fabric.Netns, fn func() error) {
	t.Helper()
	if err := n.Do(fn); err != nil {
		t.Fatal(err)
	}
}

func linkUp(name string, addrs ...string) func() error {
	return func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, s := range addrs {
			a, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
}

func capture(t *testing.T, n *fabric.Netns, link string) *fabric.Capture {
	t.Helper()
	c, err := n.Capture(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// lines returns the text of the captured packets that contain all of the words.
func lines(t *testing.T, c *fabric.Capture, words ...string) (matching []string) {
	t.Helper()
	packets, err := c.Packets()
	if err != nil {
		t.Fatal(err)
	}
next:
	for _, p := range packets {
		for _, w := range words {
			if !strings.Contains(p.String(), w) {
				continue next
			}
		}
		matching = append(matching, p.String())
	}
	return matching
}

// eventually waits until cond returns true, and reports whether it did. Packets may
// still be in flight when the call that sent them returns.
func eventually(t *testing.T, cond func() bool) bool {
	t.Helper()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			return false
		}
	}
	return true
}

// sendAndWait sends a datagram, and then a ping to the gateway. The datagram, which
// may have a spoofed source and so gets no answer, has passed the router when the
// answer to the ping arrives.
func sendAndWait(t *testing.T, n *fabric.Netns, from, to string) {
	t.Helper()
	dst := netip.AddrPortFrom(ip(to), 9)
	if err := n.Send(netip.AddrPortFrom(ip(from), 1), dst, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	gateway := map[string]string{"node-1": "10.0.1.1", "node-2": "10.0.2.1", "nat": "10.0.1.1", "internet": "10.0.1.10"}[n.Name()]
	if _, err := n.Ping(ctx, netip.Addr{}, ip(gateway)); err != nil {
		t.Fatal(err)
	}
}

func spoofed(t *testing.T, f *fabric.Fabric) map[string]uint64 {
	t.Helper()
	d, err := f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	return d.Spoofed
}

func TestDelivery(t *testing.T) {
	f := newFabric(t)
	one, two := f.Instance("node-1"), f.Instance("node-2")
	for _, a := range []netip.Addr{ip("10.0.2.10"), ip("2001:db8:1:2::10")} {
		echo(t, two, a)
	}
	wantSource(t, one, ip("10.0.1.10"), ip("10.0.2.10"), ip("10.0.1.10"))
	wantSource(t, one, ip("2001:db8:1:1::10"), ip("2001:db8:1:2::10"), ip("2001:db8:1:1::10"))
	wantSource(t, one, ip("10.0.1.10"), fabric.PeerAddr, ip("10.0.1.10"))
	wantSource(t, one, ip("2001:db8:1:1::10"), fabric.PeerAddr6, ip("2001:db8:1:1::10"))
	wantSource(t, one, ip("10.0.1.10"), fabric.InternetAddr, ip("10.0.1.10"))
	wantSource(t, one, ip("2001:db8:1:1::10"), fabric.InternetAddr6, ip("2001:db8:1:1::10"))
	for _, a := range []netip.Addr{ip("10.0.2.10"), ip("2001:db8:1:2::10"), ip("10.0.1.1"), fabric.InternetAddr} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if rtt, err := one.Ping(ctx, netip.Addr{}, a); err != nil || rtt <= 0 {
			t.Errorf("ping %v: %v, %v", a, rtt, err)
		}
		cancel()
	}
	if diff := cmp.Diff(map[string]uint64{"eni-1": 0, "eni-2": 0, "eni-3": 0}, spoofed(t, f)); diff != "" {
		t.Errorf("dropped packets with valid sources (-want +got):\n%s", diff)
	}
}

// TestNeighbours checks that the router answers ARP and neighbour discovery for
// other addresses in the subnet of the node.
func TestNeighbours(t *testing.T) {
	f := newFabric(t)
	one := f.Instance("node-1")
	if _, err := f.AddInstance("node-3"); err != nil {
		t.Fatal(err)
	}
	err := f.Attach(fabric.ENI{ID: "eni-4", Instance: "node-3", Subnet: "subnet-a", MAC: mac(4), Addr: ip("10.0.1.30"), Addrs: []netip.Addr{ip("2001:db8:1:1::30")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Boot(t.Context(), "node-3"); err != nil {
		t.Fatal(err)
	}
	seen := capture(t, one, "ens5")
	for _, a := range []netip.Addr{ip("10.0.1.30"), ip("2001:db8:1:1::30")} {
		echo(t, f.Instance("node-3"), a)
	}
	wantSource(t, one, ip("10.0.1.10"), ip("10.0.1.30"), ip("10.0.1.10"))
	wantSource(t, one, ip("2001:db8:1:1::10"), ip("2001:db8:1:1::30"), ip("2001:db8:1:1::10"))
	// On a slow machine there may be two requests.
	if len(lines(t, seen, "ARP, 10.0.1.30 is-at")) == 0 {
		t.Error("no answer to ARP for a neighbour")
	}
	if len(lines(t, seen, "neighbor advertisement, tgt is 2001:db8:1:1::30")) == 0 {
		t.Error("no answer to neighbour discovery")
	}
	// The router does not answer for addresses that no ENI owns, that the asking ENI
	// owns, or that are not routed.
	for _, a := range []string{"10.0.1.99", "10.0.1.11", "169.254.1.1", "2001:db8:1:1::99"} {
		ctx, cancel := context.WithTimeout(t.Context(), silence)
		_, err := one.Ask(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(ip(a), fabric.EchoPort))
		cancel()
		if err == nil {
			t.Errorf("%s answers, want no answer", a)
		}
		if got := append(lines(t, seen, "ARP, "+a+" is-at"), lines(t, seen, "tgt is "+a)...); len(got) != 0 {
			t.Errorf("the VPC answers for %s: %q", a, got)
		}
	}
}

// TestPeerAddrs checks that the peer host answers at its further addresses, and that the
// name of the router's link to an ENI is right.
func TestPeerAddrs(t *testing.T) {
	isolatetest.Require(t)
	cfg := vpcConfig
	cfg.PeerAddrs = []netip.Addr{ip("198.51.100.9"), ip("2001:db8:99::9")}
	cfg.Dir = t.TempDir()
	f, err := fabric.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	ns, err := f.AddInstance("node-1")
	if err != nil {
		t.Fatal(err)
	}
	e := fabric.ENI{ID: "eni-1", Instance: "node-1", Subnet: "subnet-a", MAC: mac(1), Addr: ip("10.0.1.10"), Addrs: []netip.Addr{ip("2001:db8:1:1::10")}}
	if err := f.Attach(e); err != nil {
		t.Fatal(err)
	}
	if err := f.Boot(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	for _, a := range append([]netip.Addr{fabric.PeerAddr, fabric.PeerAddr6}, cfg.PeerAddrs...) {
		own := e.Addr
		if a.Is6() {
			own = e.Addrs[0]
		}
		wantSource(t, ns, own, a, own)
	}
	name, ok := f.RouterLink(e.ID)
	if !ok {
		t.Fatalf("RouterLink(%s) = %q, false", e.ID, name)
	}
	run(t, f.Router(), func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteGet(e.Addr.AsSlice())
		if err == nil && (len(routes) != 1 || routes[0].LinkIndex != link.Attrs().Index) {
			err = fmt.Errorf("the router's routes to %s are %v, want one by %s", e.Addr, routes, name)
		}
		return err
	})
	if name, ok := f.RouterLink("eni-9"); ok {
		t.Errorf("RouterLink of an ENI that is not attached = %q, true", name)
	}
}

func TestSecondENI(t *testing.T) {
	f := newFabric(t)
	one, two := f.Instance("node-1"), f.Instance("node-2")
	run(t, one, linkUp("ens6", "10.0.1.20/32"))
	if err := f.WaitUp(t.Context(), "eni-2"); err != nil {
		t.Fatal(err)
	}
	first, second := capture(t, one, "ens5"), capture(t, one, "ens6")
	send := func(a string) { t.Helper(); sendAndWait(t, two, "10.0.2.10", a) }
	counts := func(want1, want2 int, a string) {
		t.Helper()
		var got1, got2 []string
		if !eventually(t, func() bool {
			got1, got2 = lines(t, first, "> "+a+".9"), lines(t, second, "> "+a+".9")
			return len(got1) == want1 && len(got2) == want2
		}) {
			t.Errorf("packets for %s: %q on ens5 and %q on ens6, want %d and %d", a, got1, got2, want1, want2)
		}
	}
	for _, a := range []string{"10.0.1.20", "10.0.1.21", "10.0.1.33", "10.0.1.47"} {
		send(a)
		counts(0, 1, a)
	}
	for _, a := range []string{"10.0.1.10", "10.0.1.11"} {
		send(a)
		counts(1, 0, a)
	}
	send("10.0.1.48") // the first address after the prefix
	counts(0, 0, "10.0.1.48")
	sendAndWait(t, two, "2001:db8:1:2::10", "2001:db8:1:1:f::77")
	counts(0, 1, "2001:db8:1:1:f::77")

	// An address moves from one ENI to the other, even if it is added to the new ENI
	// first.
	if err := f.SetAddrs("eni-1", []netip.Addr{ip("10.0.1.11"), ip("10.0.1.21")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.SetAddrs("eni-2", nil, nil); err != nil {
		t.Fatal(err)
	}
	send("10.0.1.21")
	counts(1, 1, "10.0.1.21")
	send("10.0.1.33")
	counts(0, 1, "10.0.1.33")

	if err := f.Detach("eni-2"); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach("eni-2"); err != nil {
		t.Errorf("second detach: error %v, want none", err)
	}
	run(t, one, func() error {
		if _, err := netlink.LinkByName("ens6"); !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("ens6 after detach: error %w, want LinkNotFoundError", err)
		}
		return nil
	})
	send("10.0.1.20")
	counts(0, 1, "10.0.1.20")
}

func TestLink(t *testing.T) {
	f := newFabric(t)
	run(t, f.Instance("node-1"), func() error {
		link, err := netlink.LinkByName("ens6")
		if err != nil {
			return err
		}
		a := link.Attrs()
		if a.HardwareAddr.String() != mac(2).String() || a.Flags&net.FlagUp != 0 || a.MTU != 9001 {
			return fmt.Errorf("ens6 has MAC %v, flags %v, MTU %d; want %v, down, 9001", a.HardwareAddr, a.Flags, a.MTU, mac(2))
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err == nil && len(addrs) != 0 {
			err = fmt.Errorf("ens6 has addresses %v, want none", addrs)
		}
		return err
	})
}

func TestSourceCheck(t *testing.T) {
	f := newFabric(t)
	one, two := f.Instance("node-1"), f.Instance("node-2")
	arrived := capture(t, two, "ens5")
	for i, from := range []string{"10.0.1.20", "10.0.2.99", "192.0.2.1", "10.0.2.10", "2001:db8:1:1::99", "2001:db8:9::1"} {
		to := "10.0.2.10"
		if ip(from).Is6() {
			to = "2001:db8:1:2::10"
		}
		sendAndWait(t, one, from, to)
		if !eventually(t, func() bool { return spoofed(t, f)["eni-1"] == uint64(i)+1 }) {
			t.Errorf("after a packet from %s: %d counted, want %d", from, spoofed(t, f)["eni-1"], i+1)
		}
	}
	if got := lines(t, arrived, ": UDP"); len(got) != 0 {
		t.Errorf("spoofed packets arrived: %q", got)
	}
	// Packets from an address that the ENI owns pass, even if the instance has not
	// configured it.
	sendAndWait(t, one, "10.0.1.11", "10.0.2.10")
	if !eventually(t, func() bool { return len(lines(t, arrived, "10.0.1.11.1 > 10.0.2.10.9")) == 1 }) {
		t.Errorf("a packet from a secondary address did not arrive: %q, %v", lines(t, arrived), spoofed(t, f))
	}
	if got := spoofed(t, f); got["eni-2"] != 0 || got["eni-3"] != 0 {
		t.Errorf("packets of eni-1 were counted for other ENIs: %v", got)
	}
}

// TestBranchENI attaches a branch ENI and uses it over a VLAN on the link of its
// trunk ENI.
func TestBranchENI(t *testing.T) {
	f := newFabric(t)
	if slices.Contains(missingLinkKinds(t), "vlan") {
		t.Log("this kernel has no links of kind vlan; internal/vm runs this test")
		return
	}
	one, two := f.Instance("node-1"), f.Instance("node-2")
	e := fabric.ENI{ID: "eni-b", Trunk: "eni-2", VLAN: 5, Subnet: "subnet-b", MAC: mac(8), Addr: ip("10.0.2.80"), Addrs: []netip.Addr{ip("2001:db8:1:2::80")}}
	if err := f.Attach(e); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.ENI("eni-b"); got.Instance != "node-1" || got.Primary() || got.Link() != "" {
		t.Errorf("attached ENI is %+v, want one of node-1 that is not primary and has no link", got)
	}
	again := e
	again.ID = "eni-c"
	if err := f.Attach(again); !errors.Is(err, os.ErrExist) {
		t.Errorf("second branch ENI with the same VLAN ID: error %v, want ErrExist", err)
	}
	again.Trunk = "eni-b"
	if err := f.Attach(again); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("branch ENI as trunk: error %v, want ErrNotExist", err)
	}
	run(t, one, linkUp("ens6"))
	run(t, one, func() error {
		trunk, err := netlink.LinkByName("ens6")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = "branch", trunk.Attrs().Index, e.MAC
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 5}); err != nil {
			return err
		}
		return linkUp("branch", "10.0.2.80/24", "2001:db8:1:2::80/64")()
	})
	if err := f.WaitUp(t.Context(), "eni-b"); err != nil {
		t.Fatal(err)
	}
	var captures []*fabric.Capture
	for _, id := range []string{"eni-2", "eni-b"} {
		c, err := f.Capture(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		captures = append(captures, c)
	}
	for i, a := range []netip.Addr{ip("10.0.2.10"), ip("2001:db8:1:2::10")} {
		echo(t, two, a)
		own := append([]netip.Addr{e.Addr}, e.Addrs...)[i]
		wantSource(t, one, own, a, own)
		for j, vlan := range []int{5, 0} {
			if got := vlans(t, captures[j], own); !slices.Equal(got, []int{vlan}) {
				t.Errorf("%s: packets with VLAN IDs %v, want %d", own, got, vlan)
			}
		}
	}
	if err := one.Send(netip.MustParseAddrPort("10.0.2.99:1"), netip.MustParseAddrPort("10.0.2.10:9"), nil); err != nil {
		t.Fatal(err)
	}
	if !eventually(t, func() bool { return spoofed(t, f)["eni-b"] == 1 }) {
		t.Errorf("dropped packets by ENI: %v, want 1 of eni-b", spoofed(t, f))
	}
	if err := f.Detach("eni-2"); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.ENI("eni-b"); ok {
		t.Error("the branch ENI is still attached after its trunk was detached")
	}
}

// vlans returns the VLAN IDs of the packets from or to an address, without
// duplicates.
func vlans(t *testing.T, c *fabric.Capture, a netip.Addr) (ids []int) {
	t.Helper()
	packets, err := c.Packets()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if f, ok := p.Flow(); ok && (f.Src.Addr() == a || f.Dst.Addr() == a) && !slices.Contains(ids, p.VLAN) {
			ids = append(ids, p.VLAN)
		}
	}
	return ids
}

func TestUncheckedENI(t *testing.T) {
	f := newFabric(t)
	if _, err := f.AddInstance("nat"); err != nil {
		t.Fatal(err)
	}
	if err := f.Attach(fabric.ENI{ID: "eni-9", Instance: "nat", Subnet: "subnet-a", MAC: mac(9), Addr: ip("10.0.1.90"), Unchecked: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.Boot(t.Context(), "nat"); err != nil {
		t.Fatal(err)
	}
	arrived := capture(t, f.Instance("node-2"), "ens5")
	sendAndWait(t, f.Instance("nat"), "192.0.2.1", "10.0.2.10")
	if !eventually(t, func() bool { return len(lines(t, arrived, "192.0.2.1.1 > 10.0.2.10.9")) == 1 }) {
		t.Error("a packet of an unchecked ENI did not arrive")
	}
}

func TestInternetGateway(t *testing.T) {
	f := newFabric(t)
	one := f.Instance("node-1")
	run(t, one, linkUp("ens5", "10.0.1.11/32"))
	wantSource(t, one, ip("10.0.1.10"), fabric.InternetAddr, ip("10.0.1.10"))
	outside := capture(t, f.Internet(), "eth0")
	wantSource(t, one, ip("10.0.1.11"), fabric.InternetAddr, netip.Addr{})
	if got := lines(t, outside, "10.0.1.11"); len(got) != 0 {
		t.Errorf("a private source passed the gateway: %q", got)
	}
	d, err := f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	if d.InternetGateway == 0 {
		t.Error("no drop was counted at the internet gateway")
	}
	// From the internet, only the public address is reachable.
	inside := capture(t, one, "ens5")
	for _, a := range []string{"10.0.1.11", "10.0.1.10"} {
		sendAndWait(t, f.Internet(), "203.0.113.10", a)
	}
	if !eventually(t, func() bool { return len(lines(t, inside, "203.0.113.10.1 > 10.0.1.10.9")) == 1 }) {
		t.Error("no packet from the internet arrived for the public address")
	}
	if got := lines(t, inside, "203.0.113.10.1 > 10.0.1.11.9"); len(got) != 0 {
		t.Errorf("the internet reached a private address: %q", got)
	}
	wantSource(t, one, ip("10.0.1.11"), fabric.PeerAddr, ip("10.0.1.11"))
}

func TestMetadataAndEC2(t *testing.T) {
	f := newFabric(t)
	err := f.ServeMetadata(func(instance string) http.Handler {
		if instance == "node-2" {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, instance) })
	})
	if err != nil {
		t.Fatal(err)
	}
	ec2, err := f.ServeEC2(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ec2") }))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		node, url, want string
		status          int
	}{
		{"node-1", "http://169.254.169.254/latest", "node-1", http.StatusOK},
		{"node-1", "http://[fd00:ec2::254]/latest", "node-1", http.StatusOK},
		{"node-2", "http://169.254.169.254/latest", "404 page not found\n", http.StatusNotFound},
		{"node-2", ec2, "ec2", http.StatusOK},
	} {
		status, body := get(t, f.Instance(test.node), netip.Addr{}, test.url)
		if status != test.status || body != test.want {
			t.Errorf("%s of %s = %d %q, want %d %q", test.url, test.node, status, body, test.status, test.want)
		}
	}
}

// get requests url from the namespace. The source address is from; if from is zero
// the kernel chooses.
func get(t *testing.T, n *fabric.Netns, from netip.Addr, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var local netip.AddrPort
			if from.IsValid() {
				local = netip.AddrPortFrom(from, 0)
			}
			return n.Dial(ctx, network, local, netip.MustParseAddrPort(address))
		},
	}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestErrors(t *testing.T) {
	f := newFabric(t)
	good := fabric.ENI{ID: "eni-5", Instance: "node-1", Device: 2, Subnet: "subnet-a", MAC: mac(5), Addr: ip("10.0.1.50")}
	change := func(fn func(e *fabric.ENI)) fabric.ENI { e := good; fn(&e); return e }
	for name, test := range map[string]struct {
		err, want error
	}{
		"no instance":     {f.Attach(change(func(e *fabric.ENI) { e.Instance = "node-9" })), os.ErrNotExist},
		"no subnet":       {f.Attach(change(func(e *fabric.ENI) { e.Subnet = "subnet-9" })), os.ErrNotExist},
		"attached twice":  {f.Attach(change(func(e *fabric.ENI) { e.ID = "eni-1" })), os.ErrExist},
		"index taken":     {f.Attach(change(func(e *fabric.ENI) { e.Device = 1 })), os.ErrExist},
		"instance twice":  {func() error { _, err := f.AddInstance("node-1"); return err }(), os.ErrExist},
		"subnet twice":    {f.AddSubnet(vpcConfig.Subnets[0]), os.ErrExist},
		"not attached":    {f.SetAddrs("eni-5", nil, nil), os.ErrNotExist},
		"no trunk":        {f.Attach(change(func(e *fabric.ENI) { e.Trunk = "eni-9" })), os.ErrNotExist},
		"capture":         {func() error { _, err := f.Capture("eni-5"); return err }(), os.ErrNotExist},
		"boot of nothing": {f.Boot(t.Context(), "node-9"), os.ErrNotExist},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: error %v, want %v", name, test.err, test.want)
		}
	}
	if _, ok := f.ENI("eni-5"); ok {
		t.Error("ENI returns an ENI that was not attached because of an error")
	}
	if _, err := fabric.New(t.Context(), fabric.Config{}); err == nil {
		t.Error("New built a VPC without a prefix, want an error")
	}
}

// TestCloseLeavesNothing builds a fabric twice with the same names, and checks that
// Close leaves no namespaces and no open files.
func TestCloseLeavesNothing(t *testing.T) {
	isolatetest.Require(t)
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := fabric.New(t.Context(), vpcConfig)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.AddInstance("node-1"); err != nil {
			t.Fatal(err)
		}
		if err := f.Attach(fabric.ENI{ID: "eni-1", Instance: "node-1", Subnet: "subnet-a", MAC: mac(1), Addr: ip("10.0.1.10")}); err != nil {
			t.Fatal(err)
		}
		if err := f.RemoveInstance("node-1"); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		_, err = f.AddInstance("node-1")
		if err := errors.Join(f.AddSubnet(fabric.Subnet{ID: "subnet-c"}), err); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v, want ErrClosed", err)
		}
	}
	if names, err := os.ReadDir("/run/netns"); err != nil || len(names) != 0 {
		t.Errorf("/run/netns has %v, %v, want nothing", names, err)
	}
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) > len(before)+1 {
		t.Errorf("%d open files, want at most %d", len(after), len(before)+1)
	}
}
