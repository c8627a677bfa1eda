// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"net/netip"
	"testing"
)

// slots returns the items of each slot of a generated state. A state contains at
// most one item of each slot, so that no two of its items have the same key.
func slots() [][]Item {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	var all [][]Item
	for i := range 2 {
		name := fmt.Sprintf("link%d", i)
		all = append(all,
			[]Item{
				Link{Name: name, Kind: "veth", MAC: "02:00:00:00:00:01", MTU: 1500, Up: true},
				Link{Name: name, Kind: "veth", MAC: "02:00:00:00:00:02", Group: 118},
				Link{Name: name, Kind: "vlan", MAC: "02:00:00:00:00:03", Parent: "ens5", VLAN: 5, Up: true},
				Link{Name: name, Kind: "bridge", MAC: "02:00:00:00:00:04", Up: true},
			},
			[]Item{
				Address{Link: name, Prefix: prefix("10.0.0.1/24")},
				Address{Link: name, Prefix: prefix("10.0.0.1/24"), NoPrefixRoute: true},
			},
			[]Item{Address{Link: name, Prefix: prefix("2001:db8::1/64")}},
			[]Item{
				Neighbor{Link: name, Addr: addr("10.0.0.2"), MAC: "02:00:00:00:00:05"},
				Neighbor{Link: name, Addr: addr("10.0.0.2"), MAC: "02:00:00:00:00:06"},
			},
			[]Item{Sysctl{"net.ipv4.conf." + name + ".forwarding", "0"}, Sysctl{"net.ipv4.conf." + name + ".forwarding", "1"}})
	}
	for i, dst := range []netip.Prefix{prefix("0.0.0.0/0"), prefix("10.0.0.2/32"), prefix("::/0"), prefix("2001:db8::2/128")} {
		all = append(all,
			[]Item{
				Route{Dst: dst, Link: "link0", Table: TableMain, Protocol: 118},
				Route{Dst: dst, Link: "link1", Table: TableMain, Protocol: 118, MTU: 1400},
				Route{Dst: dst, Table: TableMain, Protocol: 118, Type: "blackhole"},
			},
			[]Item{Route{Dst: dst, Link: "link1", Table: 2, Metric: 512, Protocol: 4}},
			[]Item{
				Rule{Priority: 512 + i, To: dst, IPv6: dst.Addr().Is6(), Table: TableMain, Protocol: 2},
				Rule{Priority: 512 + i, To: dst, IPv6: dst.Addr().Is6(), Table: 2, Protocol: 2},
				Rule{Priority: 512 + i, From: dst, IPv6: dst.Addr().Is6(), Mark: 1, Mask: 0x7f, Table: 2, Protocol: 2},
			})
	}
	return all
}

// generated returns a state with an item of each slot, or none, that a byte of data
// selects.
func generated(data []byte) (s State) {
	for i, items := range slots() {
		if i < len(data) && int(data[i])%(len(items)+1) > 0 {
			s = carryOut(s, Change{OpAdd, items[int(data[i])%(len(items)+1)-1]})
		}
	}
	return s
}

// carryOut returns s after a change.
func carryOut(s State, c Change) State {
	switch i := c.Item.(type) {
	case Link:
		s.Links = replace(s.Links, i, c.Op, Link.key)
	case Address:
		s.Addresses = replace(s.Addresses, i, c.Op, Address.Key)
	case Neighbor:
		s.Neighbors = replace(s.Neighbors, i, c.Op, Neighbor.Key)
	case Route:
		s.Routes = replace(s.Routes, i, c.Op, Route.Key)
	case Rule:
		s.Rules = replace(s.Rules, i, c.Op, Rule.key)
	case Sysctl:
		s.Sysctls = replace(s.Sysctls, i, c.Op, Sysctl.key)
	default:
		panic(fmt.Sprintf("carryOut does not handle %T", i))
	}
	return s
}

// replace deletes the item with the key of item and, if op is OpAdd, appends item.
func replace[T any, K comparable](items []T, item T, op Op, key func(T) K) []T {
	var out []T
	for _, i := range items {
		if key(i) != key(item) {
			out = append(out, i)
		}
	}
	if op == OpAdd {
		out = append(out, item)
	}
	return out
}

// FuzzDiff checks that the changes from one state to another lead there: after them
// Diff finds no difference.
func FuzzDiff(f *testing.F) {
	f.Add([]byte{}, []byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	f.Add([]byte{1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 3, 1, 1}, []byte{2, 2, 0, 2, 2, 0, 2, 1, 2, 2, 1, 0, 2, 2, 1, 3})
	f.Add([]byte{4, 3, 2, 1, 0, 9, 30, 31, 32, 255, 7, 9}, []byte{})
	f.Fuzz(func(t *testing.T, from, to []byte) {
		have, want := generated(from), generated(to)
		got := have
		for _, c := range Diff(have, want) {
			if c.String() == "" {
				t.Errorf("a change of %T has no text", c.Item)
			}
			got = carryOut(got, c)
		}
		if left := Diff(got, want); len(left) > 0 {
			t.Errorf("after the changes of Diff, Diff returns %v\nhave:\n%swant:\n%s", left, have, want)
		}
	})
}

// TestDiffOrder checks that additions come before deletions, and that a link exists
// before its settings are written.
func TestDiffOrder(t *testing.T) {
	link := Link{Name: "br0", Kind: "bridge", MAC: "02:00:00:00:00:01", Up: true}
	setting := LinkSysctl("ipv4", "br0", "forwarding", "1")
	old := Route{Dst: netip.MustParsePrefix("10.0.0.1/32"), Link: "eni1", Table: 20000, Protocol: 118}
	replaced := old
	replaced.Table = TableMain
	down := link
	down.Up = false
	got := Diff(State{Routes: []Route{old}}, State{Links: []Link{link}, Sysctls: []Sysctl{setting}, Routes: []Route{replaced}})
	want := []Change{{OpAdd, down}, {OpAdd, setting}, {OpAdd, link}, {OpAdd, replaced}, {OpDelete, old}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Diff = %v, want %v", got, want)
	}
}
