// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestIndexIn chooses the index of a pod with addresses of both families in sandboxes with
// other interfaces.
func TestIndexIn(t *testing.T) {
	p := Pod{ContainerID: "c", IfName: "net1", Addrs: []PodAddr{
		{Addr: netip.MustParseAddr("10.0.0.5")}, {Addr: netip.MustParseAddr("2001:db8::5")},
	}}
	route := func(link, dst, via string, table int) netstate.Route {
		r := netstate.Route{Link: link, Dst: netip.MustParsePrefix(dst), Table: table}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return r
	}
	default4 := route("eth0", "0.0.0.0/0", "10.9.0.1", netstate.TableMain)
	default6 := route("eth0", "::/0", "fe80::9", netstate.TableMain)
	cheap := default4
	cheap.Metric = 100
	refusing := default4
	refusing.Type = "unreachable"
	var full netstate.State
	full.Routes = append(full.Routes, default4)
	for n := 1; n <= maxIndex; n++ {
		full.Rules = append(full.Rules, netstate.Rule{Priority: 100, Table: n})
	}
	for _, c := range []struct {
		name  string
		given int
		have  netstate.State
		want  int // -1: an error
	}{
		{"empty", 0, netstate.State{}, 0},
		{"the caller's", 7, netstate.State{Routes: []netstate.Route{default4}}, 7},
		{"other default route", 0, netstate.State{Routes: []netstate.Route{default4}}, 1},
		{"of IPv6 only", 0, netstate.State{Routes: []netstate.Route{default6}}, 1},
		{"with a metric", 0, netstate.State{Routes: []netstate.Route{cheap}}, 1},
		{"that refuses", 0, netstate.State{Routes: []netstate.Route{refusing}}, 0},
		{"in another table", 0, netstate.State{Routes: []netstate.Route{route("eth0", "0.0.0.0/0", "10.9.0.1", 5)}}, 0},
		{"other routes only", 0, netstate.State{Routes: []netstate.Route{route("eth0", "10.0.0.0/8", "10.9.0.1", netstate.TableMain)}}, 0},
		{"own default route", 0, netstate.State{Routes: []netstate.Route{cheap, route("net1", "0.0.0.0/0", "169.254.1.1", netstate.TableMain)}}, 0},
		{"tables 1 and 2 in use", 0, netstate.State{
			Routes: []netstate.Route{default4, route("net2", "192.0.2.0/24", "", 1)}, Rules: []netstate.Rule{{Priority: 9, Table: 2}},
		}, 3},
		{"gateway in use", 0, netstate.State{Routes: []netstate.Route{default4, route("net2", "169.254.1.2/32", "", netstate.TableMain)}}, 2},
		{"own rule", 0, netstate.State{Routes: []netstate.Route{default4}, Rules: []netstate.Rule{Pod{Index: 4}.sandboxRule(p.Addrs[1].Addr)}}, 4},
		{"own rule, other default route gone", 0, netstate.State{Rules: []netstate.Rule{Pod{Index: 4}.sandboxRule(p.Addrs[0].Addr)}}, 4},
		{"rule of another address", 0, netstate.State{Rules: []netstate.Rule{Pod{Index: 4}.sandboxRule(netip.MustParseAddr("10.0.0.6"))}}, 0},
		{"no table left", 0, full, -1},
	} {
		q := p
		q.Index = c.given
		got, err := q.indexIn(c.have)
		if err != nil {
			got = -1
		}
		if got != c.want {
			t.Errorf("%s: index %d, %v, want %d", c.name, got, err, c.want)
		}
	}
}

// TestSandboxRules selects the rules that a DEL deletes from a sandbox.
func TestSandboxRules(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	rules := func(index int, x netip.Addr) []netstate.Rule {
		return []netstate.Rule{Pod{Index: index}.sandboxRule(x), sandboxLastRule(netstate.FamilyOf(x), index)}
	}
	foreign := netstate.Rule{Priority: 1, From: netstate.HostPrefix(a), Table: 1, Protocol: 4}
	have := append(append(rules(1, a), rules(2, b)...), foreign)
	got := sandboxRules(have, []PodAddr{{Addr: a}})
	if want := rules(1, a); len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("rules %v, want %v", got, want)
	}
	if got := sandboxRules(have, []PodAddr{{Addr: netip.MustParseAddr("10.0.0.7")}}); len(got) > 0 {
		t.Errorf("rules %v of an address without rules, want none", got)
	}
}
