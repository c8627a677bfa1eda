// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestUses selects the uses of a state with routes, neighbours and addresses of each kind.
func TestUses(t *testing.T) {
	addr := netip.MustParseAddr
	route := func(dst, link string, table int) netstate.Route {
		return netstate.Route{Dst: netip.MustParsePrefix(dst), Link: link, Table: table, Protocol: claims.RouteProtocol}
	}
	with := func(r netstate.Route, f func(*netstate.Route)) netstate.Route { f(&r); return r }
	s := netstate.State{
		Links: []netstate.Link{
			{Name: "ens5"}, {Name: "enia", Kind: "veth"}, {Name: "lxcb", Kind: "veth"}, {Name: "enibr0", Kind: "bridge"},
			{Name: "enigone", Kind: "veth", Group: claims.LinkGroupRetired}, {Name: "enigoing", Kind: "veth", Group: claims.LinkGroupEnding},
		},
		Routes: []netstate.Route{
			route("10.0.0.1/32", "enia", claims.TablePods),
			route("10.0.0.1/32", "enia", netstate.TableMain), // the same use again
			with(route("10.0.0.2/32", "lxcb", 77), func(r *netstate.Route) { r.Protocol = 4 }),
			route("2001:db8::1/128", "enia", claims.TablePods),
			route("10.0.0.3/32", "enigone", claims.TablePods),
			route("10.0.0.4/32", "enigoing", claims.TablePods),
			with(route("10.0.0.5/32", "ens5", netstate.TableMain), func(r *netstate.Route) { r.Via = addr("10.0.0.254") }),
			with(route("10.0.0.6/32", "", claims.TablePods), func(r *netstate.Route) { r.Type = "throw" }),
			with(route("10.0.0.7/32", "ens5", netstate.TableMain), func(r *netstate.Route) { r.Other = "nexthop dev a nexthop dev b" }),
			route("10.0.0.8/31", "enia", netstate.TableMain),
			route("10.0.0.9/32", "if17", netstate.TableMain), // a link that was created after the list was read
			route("192.0.2.1/32", "enia", netstate.TableMain),
		},
		Neighbors: []netstate.Neighbor{
			{Link: "enibr0", Addr: addr("10.0.0.10")}, {Link: "ens5", Addr: addr("10.0.0.11")},
			{Link: "enigone", Addr: addr("10.0.0.12")}, {Link: "enia", Addr: addr("10.0.0.1")},
		},
		Addresses: []netstate.Address{
			{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.13/24")}, {Link: "ens5", Prefix: netip.MustParsePrefix("192.0.2.2/24")},
		},
	}
	want := []Use{
		{addr("10.0.0.1"), "enia", false}, {addr("10.0.0.2"), "lxcb", false}, {addr("10.0.0.9"), "if17", false},
		{addr("10.0.0.10"), "enibr0", false}, {addr("10.0.0.13"), "ens5", true}, {addr("2001:db8::1"), "enia", false},
	}
	within := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("10.0.0.9/32"), netip.MustParsePrefix("2001:db8::/80")}
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, usesOf(s, within), compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := usesOf(s, nil); len(got) > 0 {
		t.Errorf("without prefixes: %v", got)
	}
}
