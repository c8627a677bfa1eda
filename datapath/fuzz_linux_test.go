// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// FuzzDecode feeds the readers of netlink messages with anything: they may fail,
// but not crash, and what they return must print.
func FuzzDecode(f *testing.F) {
	var b rtnl.Batch
	b.Route(netstate.OpAdd, 3, netstate.Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Via: netip.MustParseAddr("10.0.0.1"), Table: 20000, MTU: 1500}, rtnl.Create)
	b.Rule(netstate.OpAdd, netstate.Rule{Priority: 512, To: netip.MustParsePrefix("2001:db8::1/128"), IPv6: true, Table: 2, Mark: 1, Mask: 0x7f, IIF: "lo"})
	b.Address(netstate.OpAdd, 3, netstate.Address{Prefix: netip.MustParsePrefix("10.0.0.1/32")})
	b.Neighbor(netstate.OpAdd, 3, netstate.Neighbor{Addr: netip.MustParseAddr("fe80::1"), MAC: "02:00:00:00:00:01"})
	b.CreateVeth(rtnl.VethPair{Name: "eni1", Peer: "eth0", MAC: make(net.HardwareAddr, 6), PeerMAC: make(net.HardwareAddr, 6), MTU: 1400}, 3)
	for i, at := range b.Starts {
		end := len(b.Buf)
		if i+1 < len(b.Starts) {
			end = b.Starts[i+1]
		}
		f.Add(b.Buf[at+16 : end])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		links := rtnl.LinkNames{3: "eth0"}
		if l, err := rtnl.ParseLink(body); err == nil {
			_ = l.String()
		}
		if a, err := rtnl.ParseAddress(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpAdd, Item: a}.String()
		}
		if n, _, err := rtnl.ParseNeighbor(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpDelete, Item: n}.String()
		}
		if r, _, err := rtnl.ParseRoute(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpAdd, Item: r}.String()
			_ = netstate.State{Routes: []netstate.Route{r, r}}.Lookup(netstate.Query{Dst: netip.MustParseAddr("10.0.0.1")})
		}
		if r, err := rtnl.ParseRule(body); err == nil {
			_ = netstate.Change{Op: netstate.OpDelete, Item: r}.String()
			_, _ = r.Applies(netstate.Query{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.1")})
		}
		_ = (&eventFilter{names: rtnl.LinkNames{}, seen: map[string]seenLink{}, prefix: "eni"}).concerns(rtnl.Event{Message: rtnl.Message{Kind: 16, Body: body}})
	})
}

// FuzzDiff holds that the changes from any state of a node to what is wanted lead
// there: no difference is left when they are made.
func FuzzDiff(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, true)
	f.Add([]byte{255, 7, 9, 30, 31, 32}, false)
	f.Fuzz(func(t *testing.T, drop []byte, perPod bool) {
		layout := Flat
		if perPod {
			layout = PerPod
		}
		pod := Pod{ContainerID: "c", IfName: "eth0", Layout: layout, Addrs: []PodAddr{{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}}}
		want := pod.HostState()
		have := want
		have.Routes, have.Rules, have.Neighbors = nil, nil, nil
		for i, r := range want.Routes {
			if i < len(drop) && drop[i]%2 == 0 {
				r.Table += int(drop[i])
				have.Routes = append(have.Routes, r)
			}
		}
		for i, r := range want.Rules {
			if i < len(drop) && drop[i]%3 == 0 {
				r.Table += int(drop[i])
				have.Rules = append(have.Rules, r)
			}
		}
		got := have
		for _, c := range netstate.Diff(have, want) {
			got = changed(got, c)
		}
		if left := netstate.Diff(got, want); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// with carries out a change on a value.
func changed(s netstate.State, c netstate.Change) netstate.State {
	switch i := c.Item.(type) {
	case netstate.Route:
		s.Routes = swap(s.Routes, i, c.Op, netstate.Route.Key)
	case netstate.Rule:
		s.Rules = swap(s.Rules, i, c.Op, netstate.Rule.Key)
	case netstate.Neighbor:
		s.Neighbors = swap(s.Neighbors, i, c.Op, netstate.Neighbor.Key)
	}
	return s
}

func swap[T any, K comparable](items []T, item T, op netstate.Op, key func(T) K) []T {
	var kept []T
	for _, i := range items {
		if key(i) != key(item) {
			kept = append(kept, i)
		}
	}
	if op == netstate.OpAdd {
		kept = append(kept, item)
	}
	return kept
}
