// SPDX-License-Identifier: Apache-2.0

package netstate_test

import (
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// nodeState returns a node with two ENIs: packets from 10.0.0.20 leave by ens6, all
// others by ens5.
func nodeState() netstate.State {
	all, router := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")
	return netstate.State{
		Addresses: []netstate.Address{
			{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.10/24")},
			{Link: "ens6", Prefix: netip.MustParsePrefix("10.0.0.20/24"), NoPrefixRoute: true},
		},
		Routes: []netstate.Route{
			{Dst: all, Via: router, Link: "ens5", Table: netstate.TableMain, Protocol: 16},
			{Dst: all, Via: router, Link: "ens6", Table: 2, Protocol: 118},
		},
		Rules: append(netstate.BuiltinRules(netstate.IPv4), netstate.Rule{
			Priority: 32765, From: netip.MustParsePrefix("10.0.0.20/32"), Table: 2, Protocol: 2,
		}),
	}
}

// A State prints itself as the commands that would create it.
func ExampleState_String() {
	fmt.Print(nodeState())
	// Output:
	// ip addr replace 10.0.0.10/24 dev ens5
	// ip addr replace 10.0.0.20/24 dev ens6 noprefixroute
	// ip -4 route replace default via 10.0.0.1 dev ens6 table 2 proto 118
	// ip -4 route replace default via 10.0.0.1 dev ens5 proto dhcp
	// ip -4 rule add pref 0 from all lookup local protocol 0
	// ip -4 rule add pref 32765 from 10.0.0.20 lookup 2 protocol kernel
	// ip -4 rule add pref 32766 from all lookup main protocol 0
	// ip -4 rule add pref 32767 from all lookup default protocol 0
}

// Diff returns the changes that lead from one state to another, here to one in which
// packets from 10.0.0.20 use another table. The new rule comes before the deletion of
// the old one.
func ExampleDiff() {
	have, want := nodeState(), nodeState()
	want.Rules[3].Table, want.Routes[1].Table = 3, 3
	for _, c := range netstate.Diff(have, want) {
		fmt.Println(c)
	}
	// Output:
	// ip -4 route replace default via 10.0.0.1 dev ens6 table 3 proto 118
	// ip -4 rule add pref 32765 from 10.0.0.20 lookup 3 protocol kernel
	// ip -4 rule del pref 32765 from 10.0.0.20 lookup 2 protocol kernel
	// ip -4 route del default via 10.0.0.1 dev ens6 table 2 proto 118
}

// Lookup finds the route of a packet as the kernel does: the rules select a table, and
// the longest prefix in it decides.
func ExampleState_Lookup() {
	s := nodeState()
	for _, src := range []string{"10.0.0.10", "10.0.0.20"} {
		fmt.Println(s.Lookup(netstate.Query{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("198.51.100.9")}))
	}
	fmt.Println(s.Lookup(netstate.Query{Src: netip.MustParseAddr("10.0.0.10"), Dst: netip.MustParseAddr("10.0.0.20")}))
	// Output:
	// rule "pref 32766 from all lookup main protocol 0" finds route "default via 10.0.0.1 dev ens5 proto dhcp"
	// rule "pref 32765 from 10.0.0.20 lookup 2 protocol kernel" finds route "default via 10.0.0.1 dev ens6 table 2 proto 118"
	// to this node itself
}

// Join merges states, for example those of two pods, and removes duplicates.
func ExampleJoin() {
	pod := func(addr, link string) netstate.State {
		return netstate.State{
			Routes:  []netstate.Route{{Dst: netip.MustParsePrefix(addr), Link: link, Table: 20000, Protocol: 118}},
			Sysctls: []netstate.Sysctl{{Key: "net.ipv4.ip_forward", Value: "1"}},
		}
	}
	fmt.Print(netstate.Join(pod("10.0.0.2/32", "eni2"), pod("10.0.0.1/32", "eni1")))
	// Output:
	// sysctl -w net.ipv4.ip_forward=1
	// ip -4 route replace 10.0.0.1 dev eni1 table 20000 proto 118 scope link
	// ip -4 route replace 10.0.0.2 dev eni2 table 20000 proto 118 scope link
}
