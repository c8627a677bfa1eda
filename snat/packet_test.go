// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// TestInternetSeesTheNode connects from pods on both ENIs to the internet.
func TestInternetSeesTheNode(t *testing.T) {
	for _, nodePort := range []bool{true, false} {
		t.Run(fmt.Sprintf("node ports %v", nodePort), func(t *testing.T) {
			w := newWorld(t)
			apply(t, w.snat, base(func(c *snat.Config) { c.NodePort = nodePort }), true)
			check := w.watch(t, "ens5")
			w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
			w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := w.b.Ping(ctx, podB, fabric.InternetAddr); err != nil {
				t.Error(err)
			}
			check(fabric.InternetAddr)
		})
	}
}

// TestWithoutRulesNothingLeaves connects from a pod on the second ENI without rules: the
// internet gateway drops its packets.
func TestWithoutRulesNothingLeaves(t *testing.T) {
	w := newWorld(t)
	w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), netip.Addr{})
}

// TestInsideTheVPCNothingChanges connects from pods to the VPC.
func TestInsideTheVPCNothingChanges(t *testing.T) {
	w := newWorld(t)
	apply(t, w.snat, base(nil), true)
	for link, pod := range map[string]struct {
		ns   *fabric.Netns
		addr netip.Addr
	}{"ens5": {w.a, podA}, "ens6": {w.b, podB}} {
		check := w.watch(t, link)
		w.asks(t, pod.ns, pod.addr, echoAt(node2), pod.addr)
		check(node2)
	}
	w.asks(t, w.a, podA, echoAt(podB), podA)
}

// TestExcluded excludes a peered network, and then all destinations.
func TestExcluded(t *testing.T) {
	w := newWorld(t)
	apply(t, w.snat, base(nil), true)
	w.asks(t, w.b, podB, echoAt(fabric.PeerAddr), node1)
	apply(t, w.snat, base(func(c *snat.Config) { c.Excluded = prefixes("192.168.0.0/16") }), true)
	check := w.watch(t, "ens6")
	w.asks(t, w.b, podB, echoAt(fabric.PeerAddr), podB)
	check(fabric.PeerAddr)
	w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
	// All destinations are excluded: packets leave by the pods' ENIs, not translated.
	apply(t, w.snat, configs["exclude-all"], true)
	w.asks(t, w.a, podA, echoAt(fabric.PeerAddr), podA)
	w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), netip.Addr{})
}

// TestHostIsLeftAlone connects from the node itself. The server sees the same port, which
// would be a random one after a translation.
func TestHostIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	apply(t, w.snat, base(nil), true)
	for _, test := range []struct {
		from netip.AddrPort
		to   netip.Addr
	}{
		{netip.AddrPortFrom(node1, 40001), fabric.InternetAddr},
		{netip.AddrPortFrom(node1, 40002), fabric.PeerAddr},
		{netip.AddrPortFrom(second, 40003), fabric.PeerAddr},
		{netip.AddrPortFrom(node1, 40004), node2},
		{netip.AddrPortFrom(node1, 40005), podB},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		seen, err := w.node.Ask(ctx, "udp", test.from, echoAt(test.to))
		cancel()
		if seen != test.from {
			t.Errorf("from %v of the node to %v: the server saw %v, %v; want the same source", test.from, test.to, seen, err)
		}
	}
}

// TestRandom compares the ports before and after the translation.
func TestRandom(t *testing.T) {
	for random, keeps := range map[snat.Random]bool{snat.RandomPRNG: false, snat.RandomHash: false, snat.RandomNone: true} {
		t.Run(string(random), func(t *testing.T) {
			w := newWorld(t)
			apply(t, w.snat, base(func(c *snat.Config) { c.Random = random }), true)
			kept := 0
			for port := range uint16(4) {
				from := netip.AddrPortFrom(podA, 40000+port)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				seen, err := w.a.Ask(ctx, "udp", from, echoAt(fabric.InternetAddr))
				cancel()
				if err != nil || seen.Addr() != node1 {
					t.Errorf("the server saw %v, %v", seen, err)
				}
				if seen.Port() == from.Port() {
					kept++
				}
			}
			if (kept == 4) != keeps {
				t.Errorf("%d of 4 ports kept", kept)
			}
		})
	}
}

// TestPorts has a range so small that random ports would hardly be in it.
func TestPorts(t *testing.T) {
	w := newWorld(t)
	ports := snat.Ports{First: 20000, Last: 20015}
	apply(t, w.snat, base(func(c *snat.Config) { c.Ports = ports }), true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, network := range []string{"tcp", "udp", "tcp", "udp"} {
		seen, err := w.b.Ask(ctx, network, netip.AddrPortFrom(podB, 0), echoAt(fabric.InternetAddr))
		if err != nil || seen.Addr() != node1 || seen.Port() < ports.First || seen.Port() > ports.Last {
			t.Errorf("over %s the server saw %v, %v; want %v with a port of %v", network, seen, err, node1, ports)
		}
	}
	if _, err := w.b.Ping(ctx, podB, fabric.InternetAddr); err != nil {
		t.Error(err)
	}
}

// TestManyFlows opens the same ports from two pods to one destination at once.
func TestManyFlows(t *testing.T) {
	w := newWorld(t)
	apply(t, w.snat, base(nil), true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const workers, flows = 8, 100 // for each pod
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.AddrPort]int{}
	for _, pod := range []struct {
		ns   *fabric.Netns
		addr netip.Addr
	}{{w.a, podA}, {w.b, podB}} {
		for n := range uint16(workers) {
			group.Go(func() {
				for port := 20000 + n*flows; port < 20000+(n+1)*flows; port++ {
					source, err := pod.ns.Ask(ctx, "udp", netip.AddrPortFrom(pod.addr, port), echoAt(fabric.InternetAddr))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					seen[source]++
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	for source, n := range seen {
		if source.Addr() != node1 || n != 1 {
			t.Errorf("%d flows were translated to %v, want one of %v", n, source, node1)
		}
	}
	if failed := insertFailed(t, w.node); failed != 0 {
		t.Errorf("connection tracking refused %d flows", failed)
	}
}

// insertFailed returns the number of flows that the kernel dropped because their
// translation was already in use.
func insertFailed(t *testing.T, n *fabric.Netns) (total uint64) {
	t.Helper()
	in(t, n, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if err != nil {
			return err
		}
		rows := strings.Split(strings.TrimSpace(string(b)), "\n")
		column := slices.Index(strings.Fields(rows[0]), "insert_failed")
		for _, row := range rows[1:] {
			v, err := strconv.ParseUint(strings.Fields(row)[column], 16, 64)
			if err != nil {
				return err
			}
			total += v
		}
		return nil
	})
	return total
}

// TestExternal has another device translate: only node ports need rules.
func TestExternal(t *testing.T) {
	w := newWorld(t)
	apply(t, w.snat, configs["external"], true)
	check := w.watch(t, "ens6")
	w.asks(t, w.b, podB, echoAt(fabric.PeerAddr), podB)
	check(fabric.PeerAddr)
	w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), netip.Addr{})
	proxy{daddr: node1, port: 30007, to: podB}.nft(t, w.node)
	check = w.watch(t, "ens5")
	w.asks(t, w.other, node2, netip.AddrPortFrom(node1, 30007), node2)
	check(node2)
}

// TestIPv6IsNotTranslated connects from a pod over IPv6.
func TestIPv6IsNotTranslated(t *testing.T) {
	w := newWorld(t)
	c := base(func(c *snat.Config) {
		c.NodeAddrs, c.VPC = addrs("10.0.1.10", "2001:db8:1:1::10"), prefixes("10.0.0.0/16", "2001:db8:1::/56")
	})
	apply(t, w.snat, c, true)
	check := w.watch(t, "ens6")
	for _, to := range []netip.Addr{fabric.InternetAddr6, node26} {
		w.asks(t, w.b, podB6, echoAt(to), podB6)
		check(to)
	}
}

// proxy is a Service with the rules of kube-proxy, which rewrite the destination at
// priority -100.
type proxy struct {
	daddr      netip.Addr
	port       uint16
	to         netip.Addr
	masquerade bool
}

func (p proxy) nft(t *testing.T, ns *fabric.Netns) {
	t.Helper()
	family, mark, masquerade := "ip", "", ""
	if p.to.Is6() {
		family = "ip6"
	}
	if p.masquerade {
		mark, masquerade = "meta mark set mark | 0x4000", "meta mark & 0x4000 == 0x4000 masquerade fully-random"
	}
	to := netip.AddrPortFrom(p.to, fabric.EchoPort)
	tool(t, ns, fmt.Sprintf(`
table %[1]s kube-proxy {
	chain services {
		type nat hook prerouting priority dstnat; policy accept;
		%[1]s daddr %[2]v meta l4proto { tcp, udp } th dport %[3]d %[4]s dnat to %[5]v
	}
	chain masquerading {
		type nat hook postrouting priority srcnat; policy accept;
		%[6]s
	}
}`, family, p.daddr, p.port, mark, to, masquerade), "nft", "-f", "-")
}

// iptables returns a function that makes the same rules with a kind of iptables, "nft"
// or "legacy".
func (p proxy) iptables(kind string) func(*testing.T, *fabric.Netns) {
	return func(t *testing.T, ns *fabric.Netns) {
		t.Helper()
		program := "iptables-" + kind
		if p.to.Is6() {
			program = "ip6tables-" + kind
		}
		for _, protocol := range []string{"tcp", "udp"} {
			match := []string{"-t", "nat", "-A", "PREROUTING", "-d", p.daddr.String(), "-p", protocol, "--dport", fmt.Sprint(p.port)}
			if p.masquerade {
				tool(t, ns, "", program, append(match, "-j", "MARK", "--or-mark", "0x4000")...)
			}
			tool(t, ns, "", program, append(match, "-j", "DNAT", "--to-destination", netip.AddrPortFrom(p.to, fabric.EchoPort).String())...)
		}
		if p.masquerade {
			tool(t, ns, "", program, "-t", "nat", "-A", "POSTROUTING", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE", "--random-fully")
		}
	}
}

// modes returns functions that make the rules as the modes of kube-proxy do.
func (p proxy) modes() map[string]func(*testing.T, *fabric.Netns) {
	return map[string]func(*testing.T, *fabric.Netns){
		"nft": p.nft, "iptables-nft": p.iptables("nft"), "iptables-legacy": p.iptables("legacy"),
	}
}

// TestNodePort connects through the primary ENI to a node port of a pod on the second.
func TestNodePort(t *testing.T) {
	for _, family := range []struct {
		name                           string
		node, pod, other, web, private netip.Addr
	}{
		{"IPv4", node1, podB, node2, fabric.InternetAddr, fabric.PeerAddr},
		{"IPv6", node16, podB6, node26, fabric.InternetAddr6, fabric.PeerAddr6},
	} {
		for _, masquerade := range []bool{false, true} {
			p := proxy{daddr: family.node, port: 30007, to: family.pod, masquerade: masquerade}
			for mode, install := range p.modes() {
				t.Run(fmt.Sprintf("%s/%s/masquerade=%v", family.name, mode, masquerade), func(t *testing.T) {
					w := newWorld(t)
					// The order in which both tables are made must not matter.
					if masquerade {
						apply(t, w.snat, base(nil), true)
					}
					install(t, w.node)
					if !masquerade {
						apply(t, w.snat, base(nil), true)
					}
					for _, client := range []struct {
						ns   *fabric.Netns
						addr netip.Addr
					}{{w.other, family.other}, {w.Internet(), family.web}, {w.Peer(), family.private}} {
						want := client.addr
						if masquerade {
							want = family.node
						}
						check := w.watch(t, "ens5")
						w.asks(t, client.ns, client.addr, netip.AddrPortFrom(family.node, 30007), want)
						check(client.addr)
					}
				})
			}
		}
	}
}

// waitLocal waits until the kernel delivers packets for an IPv6 address to the node. It enters
// the address into table local some time after the request to add it.
func waitLocal(a netip.Addr) error {
	for range 1000 {
		routes, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: ipNet(a)}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil || len(routes) > 0 {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("%s is not in table local", a)
}

// TestReturns connects through the second ENI to a node port of a pod on the primary.
func TestReturns(t *testing.T) {
	c := base(func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 1}} })
	for _, family := range []struct {
		name                        string
		second, pod, other, private netip.Addr
		masqueraded                 netip.Addr // the address of the node that the kernel chooses
	}{
		{"IPv4", second, podA, node2, fabric.PeerAddr, node1},
		{"IPv6", second6, podA6, node26, fabric.PeerAddr6, second6},
	} {
		for _, masquerade := range []bool{false, true} {
			p := proxy{daddr: family.second, port: 30007, to: family.pod, masquerade: masquerade}
			for mode, install := range p.modes() {
				t.Run(fmt.Sprintf("%s/%s/masquerade=%v", family.name, mode, masquerade), func(t *testing.T) {
					w := newWorld(t)
					in(t, w.node, func() error {
						ens6, err := netlink.LinkByName("ens6")
						if err != nil {
							return err
						}
						if err := netlink.AddrAdd(ens6, &netlink.Addr{IPNet: ipNet(second6), Flags: unix.IFA_F_NODAD}); err != nil {
							return err
						}
						return waitLocal(second6)
					})
					apply(t, w.snat, c, true)
					install(t, w.node)
					for _, client := range []struct {
						ns   *fabric.Netns
						addr netip.Addr
					}{{w.other, family.other}, {w.Peer(), family.private}} {
						want := client.addr
						if masquerade {
							want = family.masqueraded
						}
						check := w.watch(t, "ens6")
						w.asks(t, client.ns, client.addr, netip.AddrPortFrom(family.second, 30007), want)
						check(client.addr)
					}
				})
			}
		}
	}
}

// TestReturnsOverSources has another table mark answers by their source, for another
// ENI and with a bit of its own. The return overrides the ENI and keeps the bit.
func TestReturnsOverSources(t *testing.T) {
	w := newWorld(t)
	proxy{daddr: second, port: 30007, to: podA}.nft(t, w.node)
	tool(t, w.node, `
table inet other {
	counter kept {}
	chain early {
		type filter hook prerouting priority -140; policy accept;
		iifname "eni*" meta mark set mark | 0x10002
	}
	chain late {
		type filter hook postrouting priority 300; policy accept;
		oifname "ens6" meta mark & 0x100ff == 0x10001 counter name kept
	}
}`, "nft", "-f", "-")
	apply(t, w.snat, base(func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 1}} }), true)
	w.asks(t, w.Peer(), fabric.PeerAddr, netip.AddrPortFrom(second, 30007), fabric.PeerAddr)
	if listed := tool(t, w.node, "", "nft", "list", "counters", "table", "inet", "other"); strings.Contains(listed, "packets 0 ") {
		t.Errorf("marks by the other table are lost:\n%s", listed)
	}
	// Without returns the answer leaves by the primary ENI, where the VPC drops it.
	apply(t, w.snat, base(nil), true)
	w.asks(t, w.Peer(), fabric.PeerAddr, netip.AddrPortFrom(second, 30007), netip.Addr{})
}

// TestNodePortNeedsItsRules connects to a node port without and with NodePort.
func TestNodePortNeedsItsRules(t *testing.T) {
	w := newWorld(t)
	proxy{daddr: node1, port: 30007, to: podB}.nft(t, w.node)
	apply(t, w.snat, base(func(c *snat.Config) { c.NodePort = false }), true)
	w.asks(t, w.Internet(), fabric.InternetAddr, netip.AddrPortFrom(node1, 30007), netip.Addr{})
	apply(t, w.snat, base(nil), true)
	w.asks(t, w.Internet(), fabric.InternetAddr, netip.AddrPortFrom(node1, 30007), fabric.InternetAddr)
}

// TestReversePathFilter sets each value of rp_filter on the ENIs. Answers to a pod on the
// second ENI arrive at the primary one, and strict filtering drops them.
func TestReversePathFilter(t *testing.T) {
	for value, passes := range map[string]bool{"0": true, "1": false, "2": true} {
		t.Run(value, func(t *testing.T) {
			w := newWorld(t)
			for _, link := range []string{"ens5", "ens6"} {
				if err := w.node.Sysctl("ipv4/conf/"+link+"/rp_filter", value); err != nil {
					t.Fatal(err)
				}
			}
			apply(t, w.snat, base(nil), true)
			proxy{daddr: node1, port: 30007, to: podB}.nft(t, w.node)
			want, wantClient := node1, fabric.InternetAddr
			if !passes {
				want, wantClient = netip.Addr{}, netip.Addr{}
			}
			w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), want)
			w.asks(t, w.Internet(), fabric.InternetAddr, netip.AddrPortFrom(node1, 30007), wantClient)
			w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
		})
	}
}

// TestClusterIP connects to a Service from a pod on the second ENI.
func TestClusterIP(t *testing.T) {
	service := netip.MustParseAddr("172.20.0.10")
	for _, test := range []struct {
		name           string
		endpoint, want netip.Addr
		link           string
	}{
		{"endpoint in the VPC", node2, podB, "ens6"},
		{"endpoint outside", fabric.InternetAddr, node1, "ens5"},
	} {
		for mode, install := range (proxy{daddr: service, port: 80, to: test.endpoint}).modes() {
			t.Run(test.name+"/"+mode, func(t *testing.T) {
				w := newWorld(t)
				install(t, w.node)
				apply(t, w.snat, base(nil), true)
				check := w.watch(t, test.link)
				w.asks(t, w.b, podB, netip.AddrPortFrom(service, 80), test.want)
				check(test.endpoint)
			})
		}
	}
}

// TestOtherMarksStay has another table mark packets and flows, before the rules of this
// package, and check the marks after them.
func TestOtherMarksStay(t *testing.T) {
	w := newWorld(t)
	tool(t, w.node, `
table inet other {
	counter kept {}
	counter lost {}
	chain early {
		type filter hook prerouting priority -140; policy accept;
		iifname "eni*" meta mark set mark | 0x10001 ct mark set ct mark | 0x20000
	}
	chain late {
		type filter hook postrouting priority 300; policy accept;
		oifname "ens5" ip daddr 203.0.113.10 meta mark & 0x10081 == 0x10081 ct mark & 0x20080 == 0x20080 counter name kept return
		oifname "ens5" ip daddr 203.0.113.10 counter name lost
	}
}`, "nft", "-f", "-")
	apply(t, w.snat, base(nil), true)
	w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
	listed := tool(t, w.node, "", "nft", "list", "counters", "table", "inet", "other")
	kept, lost, _ := strings.Cut(listed, "lost")
	if strings.Contains(kept, "packets 0 ") || !strings.Contains(lost, "packets 0 ") {
		t.Errorf("marks by the other table are lost:\n%s", listed)
	}
}

// conversation opens a connection from podB. It returns a function that exchanges data
// on it and returns the source that the server sees.
func (w *world) conversation(ctx context.Context, t *testing.T, to netip.Addr) func() netip.AddrPort {
	t.Helper()
	conn, err := w.b.Dial(ctx, "tcp", netip.AddrPort{}, echoAt(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() netip.AddrPort { return exchange(ctx, t, conn) }
}

// exchange exchanges data with an echo server and returns the source that it sees.
func exchange(ctx context.Context, t *testing.T, conn net.Conn) netip.AddrPort {
	t.Helper()
	seen, err := fabric.Exchange(ctx, conn, "still here")
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// TestDamage changes the table in many ways. Observe shows each change, Apply repairs it,
// and the tables of other programs stay as they are.
func TestDamage(t *testing.T) {
	ns, h := namespace(t)
	proxy{daddr: node1, port: 30007, to: podB, masquerade: true}.nft(t, ns)
	tool(t, ns, "table inet vpcnet { chain c { accept; }; }\ntable ip vpcnet-snat { chain c { accept; }; }", "nft", "-f", "-")
	before := tool(t, ns, "", "nft", "list", "ruleset")
	apply(t, h, base(nil), true)
	for _, damage := range []string{
		"flush chain inet vpcnet-snat pods",
		"add rule inet vpcnet-snat pods accept",
		"insert rule inet vpcnet-snat source drop",
		"add element inet vpcnet-snat inside { 203.0.113.0/24 }",
		"delete element inet vpcnet-snat inside { 10.0.0.0/16 }",
		"add element inet vpcnet-snat inside { 192.0.2.1-192.0.2.6 }",
		"add set inet vpcnet-snat extra { type ipv6_addr; }",
		"add chain inet vpcnet-snat extra",
		"add chain inet vpcnet-snat source { policy drop; }",
		"add chain inet vpcnet-snat extra { type filter hook input priority 0; }",
		"add rule inet vpcnet-snat node-port ct mark set 0",
		"add table inet vpcnet-snat { flags dormant; }",
		"flush ruleset",
	} {
		tool(t, ns, damage, "nft", "-f", "-")
		if observe(t, h).Equal(ruleset(t, base(nil))) {
			t.Errorf("after %q Observe returns the same ruleset", damage)
		}
		apply(t, h, base(nil), true)
		if diff := cmp.Diff(ruleset(t, base(nil)).String(), observe(t, h).String()); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", damage, diff)
		}
		if damage == "flush ruleset" {
			tool(t, ns, before, "nft", "-f", "-")
		}
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tool(t, ns, "", "nft", "list", "ruleset")); diff != "" {
		t.Errorf("tables of other programs changed (-before +after):\n%s", diff)
	}
}
