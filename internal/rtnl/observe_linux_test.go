// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// TestObserve adds an object of each kind, with most of its fields, and expects to read
// what it added; then it deletes them.
func TestObserve(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	for _, a := range []netip.Addr{addr4, addr6} {
		net := netip.PrefixFrom(a, a.BitLen()-8)
		want := netstate.State{
			Addresses: []netstate.Address{{Link: testLink, Prefix: net, NoPrefixRoute: true}},
			Neighbors: []netstate.Neighbor{{Link: testLink, Addr: a.Next(), MAC: peerMAC.String()}},
			Routes: []netstate.Route{
				{Dst: netstate.HostPrefix(a.Next()), Link: testLink, Table: 70000, Protocol: 9, Metric: 5, MTU: 1300, Src: a},
				{Dst: netstate.HostPrefix(a.Next().Next()), Table: 77, Type: "unreachable", Metric: 6, Protocol: 9},
			},
			Rules: []netstate.Rule{{
				IPv6: a.Is6(), Priority: 512, From: net.Masked(), To: netstate.HostPrefix(a), Mark: 1, Mask: 3, IIF: testLink, IPProto: unix.IPPROTO_UDP, Table: 70000, Protocol: 9,
			}},
		}
		if err := c.Apply(want.Additions()); err != nil {
			t.Fatal(err)
		}
		have, err := c.Observe()
		if err != nil {
			t.Fatal(err)
		}
		missing := func(have netstate.State) (changes []netstate.Change) {
			for _, ch := range netstate.Diff(have, want) {
				if ch.Op == netstate.OpAdd {
					changes = append(changes, ch)
				}
			}
			return changes
		}
		if lost := missing(have.State); len(lost) > 0 {
			t.Errorf("%s: not read back: %v", a, lost)
		}
		var over []netstate.Route
		if err := c.EachRouteOver(index, netstate.FamilyOf(a), func(r netstate.Route) { over = append(over, r) }); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(over, func(r netstate.Route) bool { return r.Dst == netstate.HostPrefix(a.Next()) }) {
			t.Errorf("routes over %s: %v", testLink, over)
		}
		n, found, err := c.NeighborOf(index, a.Next())
		if err != nil || !found || n.MAC != peerMAC.String() {
			t.Errorf("neighbour %s: %v %t %v", a.Next(), n, found, err)
		}
		var deletions []netstate.Change
		for _, ch := range want.Additions() {
			deletions = append(deletions, netstate.Change{Op: netstate.OpDelete, Item: ch.Item})
		}
		for range 2 { // to delete what does not exist succeeds
			if err := c.Apply(deletions); err != nil {
				t.Fatal(err)
			}
		}
		if have, err = c.Observe(); err != nil || len(missing(have.State)) != len(deletions) {
			t.Errorf("%s: not all deleted: %v", a, err)
		}
	}
}

// TestRouteLookup compares the kernel's choice of a route with the entry of the table.
func TestRouteLookup(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	route := netstate.Route{Dst: netstate.HostPrefix(addr4), Table: netstate.TableMain}
	var b Batch
	b.AddRoute(index, route)
	b.MatchRoute(addr4, 0)
	b.MatchRoute(addr4.Next(), 0)
	answers, err := c.Do(&b)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := answers[1].Route(); err != nil || r.LinkIndex != index || r.Dst != route.Dst {
		t.Errorf("entry: %+v, %v", r, err)
	}
	if answers[2].Found() {
		t.Error("an entry for an address without route")
	}
	r, refused, err := c.RouteTo(netstate.Query{Dst: addr4}, 0)
	if err != nil || refused != nil || r.Link != testLink || r.Table != netstate.TableMain {
		t.Errorf("route: %+v, %v, %v", r, refused, err)
	}
	if _, refused, err := c.RouteTo(netstate.Query{Dst: addr4.Next()}, 0); err != nil || refused == nil {
		t.Errorf("address without route: refused %v, error %v", refused, err)
	}
}

// TestVirtualLinks makes a bridge with a port, marks it, and finds it by its alternative
// name.
func TestVirtualLinks(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	var b Batch
	b.CreateVirtual(netstate.Link{Name: "test0", Kind: "bridge", MAC: "02:00:00:00:00:05"}, 0)
	b.MarkLink("test0", "alias", "test-alternative-name")
	b.FindAltName("test-alternative-name")
	l, err := do(t, c, &b)[3].Link()
	if err != nil || l.Name != "test0" || l.Kind != "bridge" || l.MAC != "02:00:00:00:00:05" || l.AliasText != "alias" {
		t.Errorf("%+v, %v", l, err)
	}
	b = Batch{}
	b.SetMaster(index, l.Index)
	do(t, c, &b)
	if port, err := c.LinkByName(testLink); err != nil || port.MasterIndex != l.Index {
		t.Errorf("master of %s is %d, want %d; %v", testLink, port.MasterIndex, l.Index, err)
	}
	b = Batch{}
	b.UnmarkLink(l.Index, "test-alternative-name")
	b.Rename(l.Index, "test1")
	b.Group(l.Index, 99)
	do(t, c, &b)
	if l, err := c.LinkByName("test1"); err != nil || l.AliasText != "" || l.Group != 99 {
		t.Errorf("%+v, %v", l, err)
	}
	for range 2 { // to delete what does not exist succeeds
		if err := c.DeleteLinkGroup(99); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := c.LinkByName("test1"); err != nil || l.Index != 0 {
		t.Errorf("deleted link: %+v, %v", l, err)
	}
}

// TestDecodeVLAN decodes the message that makes a VLAN, because the kernel of the tests
// may not have any.
func TestDecodeVLAN(t *testing.T) {
	want := netstate.Link{Name: "vlan.5", Kind: "vlan", VLAN: 5, MAC: "02:00:00:00:00:05", MTU: 1300}
	var b Batch
	b.CreateVirtual(want, 3)
	l, err := decodeLink(parse(b.serialize(0))[0].Data)
	if err != nil || l.Link != want || l.ParentIndex != 3 || l.PeerIndex != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}
