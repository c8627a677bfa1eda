// SPDX-License-Identifier: Apache-2.0

package vpcrules_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

var all = vpcrules.Traffic{Protocol: vpcrules.All, From: vpcrules.All, To: vpcrules.All}

func tcp(from, to int) vpcrules.Traffic {
	return vpcrules.Traffic{Protocol: vpcrules.TCP, From: from, To: to}
}

func udp(from, to int) vpcrules.Traffic {
	return vpcrules.Traffic{Protocol: vpcrules.UDP, From: from, To: to}
}

func in(t vpcrules.Traffic, peer string) vpcrules.Rule {
	return vpcrules.Rule{Traffic: t, Prefix: prefix(peer)}
}

func out(t vpcrules.Traffic, peer string) vpcrules.Rule {
	return vpcrules.Rule{Egress: true, Traffic: t, Prefix: prefix(peer)}
}

// step is a packet between two ENIs or hosts, or a change of the rules before it.
type step struct {
	change func(*vpcrules.Network)
	after  time.Duration // time that passes before the packet
	from   vpcrules.Target
	p      vpcrules.Packet
	want   vpcrules.Stage
}

func pkt(protocol int, src, dst string, ports ...uint16) vpcrules.Packet {
	p := vpcrules.Packet{Src: ip(src), Dst: ip(dst), Protocol: protocol}
	if len(ports) == 2 {
		p.SrcPort, p.DstPort = ports[0], ports[1]
	}
	return p
}

func syn(src, dst string, ports ...uint16) vpcrules.Packet {
	p := pkt(vpcrules.TCP, src, dst, ports...)
	p.Opens = true
	return p
}

func echo(kind uint8, src, dst string, id uint16) vpcrules.Packet {
	p := pkt(vpcrules.ICMP, src, dst)
	p.Type, p.ID = kind, id
	return p
}

// unreachable is the ICMP error of a host about a packet.
func unreachable(from string, about vpcrules.Packet) vpcrules.Packet {
	p := pkt(vpcrules.ICMP, from, about.Src.String())
	p.Type, p.Code, p.Quoted = 3, 4, &about
	return p
}

const (
	one   = "10.0.1.10"
	two   = "10.0.1.20"
	three = "10.0.2.10"
	peerA = "192.168.100.10"
)

// groups gives each ENI a group of the same number, without rules except for those given.
func groups(rules map[int][]vpcrules.Rule) func(*vpcrules.Network) {
	return func(n *vpcrules.Network) {
		n.Groups = nil
		for i := range n.ENIs {
			id := string(rune('1' + i))
			n.Groups = append(n.Groups, vpcrules.Group{ID: "sg-" + id, Rules: rules[i+1]})
			n.ENIs[i].Groups = []string{"sg-" + id}
		}
	}
}

func open() []vpcrules.Rule { return []vpcrules.Rule{in(all, "0.0.0.0/0"), out(all, "0.0.0.0/0")} }

func TestGroups(t *testing.T) {
	e1, e2, e3 := toENI("eni-1"), toENI("eni-2"), toENI("eni-3")
	const denyIn, denyOut, ok = vpcrules.GroupsIn, vpcrules.GroupsOut, vpcrules.Delivered
	web := groups(map[int][]vpcrules.Rule{
		1: {out(all, "0.0.0.0/0")},
		2: {out(tcp(443, 443), "10.0.2.0/24")},
		3: {in(tcp(80, 90), "10.0.1.10/32"), in(udp(53, 53), "10.0.1.0/24"), in(vpcrules.Traffic{Protocol: vpcrules.ICMP, From: 8, To: vpcrules.All}, "10.0.0.0/16")},
	})
	for name, steps := range map[string][]step{
		"answers pass without a rule": {
			{change: web, from: e1, p: syn(one, three, 1000, 80)},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000)},
			{from: e1, p: pkt(vpcrules.TCP, one, three, 1000, 80)},
		},
		"ports": {
			{change: web, from: e1, p: syn(one, three, 1000, 79), want: denyIn},
			{from: e1, p: syn(one, three, 1000, 90)},
			{from: e1, p: syn(one, three, 1000, 91), want: denyIn},
			{from: e1, p: pkt(vpcrules.UDP, one, three, 1000, 80), want: denyIn},
		},
		"another source": {{change: web, from: e2, p: syn(two, three, 1000, 80), want: denyOut}},
		"egress rules": {
			{change: web, from: e2, p: syn(two, three, 1000, 443), want: denyIn},
			{from: e3, p: syn(three, two, 443, 1000), want: denyOut},
		},
		"an answer to a packet that was never sent": {{change: web, from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000), want: denyOut}},
		"a new connection in the place of an answer": {
			{change: web, from: e1, p: syn(one, three, 1000, 80)},
			{from: e3, p: syn(three, one, 80, 1000), want: denyOut},
		},
		"the flow of another ENI": {
			{change: web, from: e1, p: syn(one, three, 1000, 80)},
			{from: e2, p: pkt(vpcrules.TCP, two, three, 1000, 80), want: denyOut},
			{from: e3, p: pkt(vpcrules.TCP, three, two, 80, 1000), want: denyOut},
		},
		"the end of the tracking": {
			{change: web, from: e1, p: pkt(vpcrules.UDP, one, three, 1000, 53)},
			{after: vpcrules.Timeout(vpcrules.UDP) - 1, from: e3, p: pkt(vpcrules.UDP, three, one, 53, 1000)},
			{after: vpcrules.Timeout(vpcrules.UDP), from: e3, p: pkt(vpcrules.UDP, three, one, 53, 1000), want: denyOut},
		},
		"echo": {
			{change: web, from: e1, p: echo(8, one, three, 7)},
			{from: e3, p: echo(0, three, one, 7)},
			{from: e3, p: echo(0, three, one, 8), want: denyOut},
			{from: e3, p: echo(8, three, one, 7), want: denyOut},
			{from: e1, p: echo(0, one, three, 7), want: denyIn},
		},
		"errors": {
			{change: web, from: e1, p: syn(one, three, 1000, 80)},
			{from: e3, p: unreachable(three, syn(one, three, 1000, 80))},
			{from: e3, p: unreachable(three, syn(one, three, 1001, 80)), want: denyOut},
			{from: e3, p: unreachable(three, pkt(vpcrules.UDP, one, three, 1000, 80)), want: denyOut},
		},
		"fragments": {
			{change: web, from: e3, p: vpcrules.Packet{Src: ip(three), Dst: ip(one), Protocol: vpcrules.UDP, Fragment: true}},
		},
		"other protocols are tracked by address": {
			{change: groups(map[int][]vpcrules.Rule{1: {out(vpcrules.Traffic{Protocol: 47}, "10.0.0.0/16")}, 3: open()}), from: e1, p: pkt(47, one, three)},
			{from: e3, p: pkt(47, three, one)},
			{from: e3, p: pkt(50, three, one), want: denyIn},
		},
		"a tracked connection survives its rule": {
			{change: web, from: e1, p: syn(one, three, 1000, 80)},
			{change: groups(nil), from: e1, p: pkt(vpcrules.TCP, one, three, 1000, 80)},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000)},
			{from: e1, p: syn(one, three, 1000, 80), want: denyOut},
		},
		"an untracked connection ends with its rule": {
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {in(tcp(80, 80), "0.0.0.0/0"), out(all, "0.0.0.0/0")}}), from: e1, p: syn(one, three, 1000, 80)},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000)},
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {out(all, "0.0.0.0/0")}}), from: e1, p: pkt(vpcrules.TCP, one, three, 1000, 80), want: denyIn},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000)},
			{from: e1, p: pkt(vpcrules.TCP, one, three, 1000, 80), want: denyIn},
		},
		"an untracked flow of UDP ends with its rule": {
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {in(udp(53, 53), "0.0.0.0/0"), out(all, "0.0.0.0/0")}}), from: e1, p: pkt(vpcrules.UDP, one, three, 1000, 53)},
			{from: e3, p: pkt(vpcrules.UDP, three, one, 53, 1000)},
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {out(all, "0.0.0.0/0")}}), from: e1, p: pkt(vpcrules.UDP, one, three, 1000, 53), want: denyIn},
		},
		"a narrow rule beside an open one does not track": {
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {in(tcp(80, 80), "10.0.1.0/24"), in(tcp(80, 80), "0.0.0.0/0"), out(all, "0.0.0.0/0")}}), from: e1, p: syn(one, three, 1000, 80)},
			{change: groups(map[int][]vpcrules.Rule{1: open()}), from: e1, p: pkt(vpcrules.TCP, one, three, 1000, 80), want: denyIn},
		},
		"families": {
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: open()}), from: e1, p: syn("2001:db8:1:1::10", "2001:db8:1:2::10", 1, 2), want: denyOut},
			{change: groups(map[int][]vpcrules.Rule{1: {out(all, "::/0")}, 3: {in(all, "2001:db8:1:1::/64")}}), from: e1, p: syn("2001:db8:1:1::10", "2001:db8:1:2::10", 1, 2)},
		},
		"references": {
			{change: func(n *vpcrules.Network) {
				groups(map[int][]vpcrules.Rule{1: open(), 2: open(), 3: {{Traffic: all, Group: "sg-2"}}})(n)
			}, from: e1, p: syn(one, three, 1, 2), want: denyIn},
			{from: e2, p: syn(two, three, 1, 2)},
			{from: e2, p: syn("10.0.1.47", three, 1, 2)},
			{change: func(n *vpcrules.Network) { n.ENIs[0].Groups = append(n.ENIs[0].Groups, "sg-2") }, from: e1, p: syn(one, three, 1, 2)},
		},
		"unknown groups": {
			{change: func(n *vpcrules.Network) { groups(nil)(n); n.ENIs[0].Groups, n.ENIs[2].Groups = nil, []string{"sg-9"} }, from: e1, p: syn(one, three, 1, 2)},
			{change: func(n *vpcrules.Network) { n.ENIs[2].Groups = []string{"sg-9", "sg-1"} }, from: e1, p: syn(one, three, 1, 2), want: denyIn},
		},
		"impossible rules": {
			{change: groups(map[int][]vpcrules.Rule{1: open(), 3: {in(tcp(90, 80), "0.0.0.0/0"), in(tcp(70000, 80000), "0.0.0.0/0"), {Traffic: all}}}), from: e1, p: syn(one, three, 1, 85), want: denyIn},
			{from: e1, p: syn(one, three, 1, 4464), want: denyIn}, // 70000 modulo 65536
		},
	} {
		t.Run(name, func(t *testing.T) { judge(t, steps) })
	}
}

func judge(t *testing.T, steps []step) {
	t.Helper()
	n := testNetwork()
	j, now := vpcrules.NewJudge(n), time.Unix(1e9, 0)
	for i, s := range steps {
		if s.change != nil {
			s.change(&n)
			j.SetNetwork(n)
		}
		now = now.Add(s.after)
		if v := j.Forward(now, s.from, s.p); v.Drop != s.want {
			t.Errorf("step %d, %+v: dropped at %q, want %q", i+1, s.p, v.Drop, s.want)
		}
	}
}

// acl sets the ACL of subnet b.
func acl(entries ...vpcrules.Entry) func(*vpcrules.Network) {
	return func(n *vpcrules.Network) {
		n.ACLs = []vpcrules.ACL{{ID: "acl-b", Subnets: []string{"b"}, Entries: entries}}
	}
}

func entry(number int, egress, allow bool, t vpcrules.Traffic, peer string) vpcrules.Entry {
	return vpcrules.Entry{Number: number, Egress: egress, Allow: allow, Traffic: t, Prefix: prefix(peer)}
}

func TestACLs(t *testing.T) {
	e1, e2, e3 := toENI("eni-1"), toENI("eni-2"), toENI("eni-3")
	const denyIn, denyOut = vpcrules.ACLIn, vpcrules.ACLOut
	icmp := func(kind, code int) vpcrules.Traffic {
		return vpcrules.Traffic{Protocol: vpcrules.ICMP, From: kind, To: code}
	}
	for name, steps := range map[string][]step{
		"empty": {
			{change: acl(), from: e1, p: syn(one, three, 1, 2), want: denyIn},
			{from: e3, p: syn(three, one, 1, 2), want: denyOut},
			{from: e1, p: syn(one, two, 1, 2)},
		},
		"the lowest number decides": {
			{change: acl(entry(200, false, false, all, "10.0.1.0/24"), entry(100, false, true, tcp(80, 80), "10.0.1.0/24")), from: e1, p: syn(one, three, 1, 80)},
			{from: e1, p: syn(one, three, 1, 81), want: denyIn},
			{change: acl(entry(200, false, true, all, "10.0.1.0/24"), entry(100, false, false, tcp(80, 80), "10.0.1.0/24")), from: e1, p: syn(one, three, 1, 80), want: denyIn},
			{from: e1, p: syn(one, three, 1, 81)},
		},
		"no state": {
			{change: acl(entry(100, false, true, all, "0.0.0.0/0")), from: e1, p: syn(one, three, 1000, 80)},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000), want: denyOut},
			{change: acl(entry(100, false, true, all, "0.0.0.0/0"), entry(100, true, true, tcp(1024, 65535), "0.0.0.0/0")), from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1000), want: denyOut},
			{from: e3, p: pkt(vpcrules.TCP, three, one, 80, 1024)},
		},
		"ICMP types": {
			{change: acl(entry(1, false, true, icmp(8, vpcrules.All), "0.0.0.0/0"), entry(2, false, true, icmp(3, 4), "0.0.0.0/0")), from: e1, p: echo(8, one, three, 1)},
			{from: e1, p: echo(0, one, three, 1), want: denyIn},
			{from: e1, p: unreachable(one, syn(three, one, 1, 2))},
			{from: e1, p: func() vpcrules.Packet { p := unreachable(one, syn(three, one, 1, 2)); p.Code = 3; return p }(), want: denyIn},
		},
		"hosts outside": {
			{change: acl(entry(1, false, false, all, "192.168.0.0/16"), entry(2, false, true, all, "0.0.0.0/0")), from: peer, p: syn(peerA, three, 1, 2), want: denyIn},
			{from: e2, p: syn(two, three, 1, 2)},
		},
		"families": {
			{change: acl(entry(1, false, true, all, "0.0.0.0/0")), from: e1, p: syn("2001:db8:1:1::10", "2001:db8:1:2::10", 1, 2), want: denyIn},
		},
		"fragments": {{change: acl(), from: e1, p: vpcrules.Packet{Src: ip(one), Dst: ip(three), Protocol: vpcrules.TCP, Fragment: true}}},
	} {
		t.Run(name, func(t *testing.T) { judge(t, steps) })
	}
}

func TestChecks(t *testing.T) {
	e1, e3 := toENI("eni-1"), toENI("eni-3")
	routed := func(n *vpcrules.Network) {
		n.RouteTables = []vpcrules.RouteTable{{ID: "main", Main: true, Routes: []vpcrules.Route{
			{Destination: prefix("100.64.2.0/24"), Target: e3}, {Destination: prefix("0.0.0.0/0"), Target: internet},
		}}}
	}
	uncheck := func(i int, on bool) func(*vpcrules.Network) {
		return func(n *vpcrules.Network) { n.ENIs[i].Unchecked = on }
	}
	judge(t, []step{
		{from: e1, p: syn("100.64.1.1", three, 1, 2), want: vpcrules.SourceCheck},
		{from: e1, p: syn(two, three, 1, 2), want: vpcrules.SourceCheck},
		{from: e1, p: syn(one, "10.0.9.9", 1, 2), want: vpcrules.Routing},
		{change: routed, from: e1, p: syn(one, "100.64.2.5", 1, 2), want: vpcrules.DestinationCheck},
		{change: uncheck(2, true), from: e1, p: syn(one, "100.64.2.5", 1, 2)},
		{from: e3, p: syn("100.64.2.5", one, 2, 1)},
		{change: uncheck(2, false), from: e3, p: syn("100.64.2.5", one, 2, 1), want: vpcrules.SourceCheck},
		{from: e1, p: syn(one, "203.0.113.10", 1, 2)},
		{from: toENI("eni-2"), p: syn(two, "203.0.113.10", 1, 2), want: vpcrules.Gateway},
		{from: internet, p: syn("203.0.113.10", one, 1, 2)},
		{from: internet, p: syn("203.0.113.10", two, 1, 2), want: vpcrules.Gateway},
		{from: internet, p: syn("2001:db8:ffff::10", "2001:db8:1:2::10", 1, 2)},
	})
}

// TestLogged checks at which ENI a packet is logged.
func TestLogged(t *testing.T) {
	n := testNetwork()
	groups(map[int][]vpcrules.Rule{1: {out(tcp(80, 81), "0.0.0.0/0")}, 3: {in(tcp(80, 80), "0.0.0.0/0")}})(&n)
	j := vpcrules.NewJudge(n)
	accept := func(ids ...string) (all []vpcrules.Logged) {
		for _, id := range ids {
			all = append(all, vpcrules.Logged{ENI: id, Action: vpcrules.Accept})
		}
		return all
	}
	reject := func(id string) []vpcrules.Logged { return []vpcrules.Logged{{ENI: id, Action: vpcrules.Reject}} }
	for port, want := range map[uint16][]vpcrules.Logged{
		80: accept("eni-1", "eni-3"), 81: slices.Concat(accept("eni-1"), reject("eni-3")), 82: reject("eni-1"),
	} {
		if diff := cmp.Diff(want, j.Forward(time.Now(), toENI("eni-1"), syn(one, three, 1, port)).Logged); diff != "" {
			t.Errorf("port %d (-want +got):\n%s", port, diff)
		}
	}
}

func TestDisjoint(t *testing.T) {
	got := vpcrules.Disjoint([]netip.Prefix{
		prefix("10.0.0.33/32"), prefix("2001:db8::/80"), prefix("10.0.0.40/28"), prefix("10.0.0.10/32"), prefix("10.0.0.10/32"), prefix("2001:db8::1/128"),
	})
	if diff := cmp.Diff([]string{"10.0.0.10/32", "10.0.0.32/28", "2001:db8::/80"}, texts(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func texts(all []netip.Prefix) (out []string) {
	for _, p := range all {
		out = append(out, p.String())
	}
	return out
}
