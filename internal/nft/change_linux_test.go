// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestChange changes each of some tables into each other one. The kernel must have the
// second table afterwards, and if both have the same kinds of chains and sets the table
// itself must be the same one.
func TestChange(t *testing.T) {
	drop, count := nft.NewRule(nft.Drop{}), nft.NewRule(nft.Counter{})
	hook := func(rules ...nft.Rule) nft.Chain {
		return nft.Chain{Name: "hooked", Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: nft.PriorityMangle, Rules: rules}
	}
	vmap := func(elements ...nft.Element) nft.Set {
		return nft.Set{Name: "m", Family: nft.IPv4, IsMap: true, Elements: elements}
	}
	lookup := nft.NewRule(nft.SourceMap{Family: nft.IPv4, Map: "m"})
	element := func(p, chain string) nft.Element { return nft.Element{Prefix: prefix(p), Chain: chain} }
	boxes := func(first, last uint16) nft.Set {
		return nft.Set{Name: "boxes", Family: nft.IPv4, Kind: nft.Boxes, Elements: []nft.Element{
			{Box: nft.Box{First: addr("10.0.0.0"), Last: addr("10.0.0.9"), FirstProtocol: 6, LastProtocol: 6, FirstPort: first, LastPort: last}},
			{Box: nft.Box{First: addr("10.0.0.10"), Last: addr("10.0.0.10"), LastProtocol: 255, LastPort: 65535}},
		}}
	}
	inBoxes := nft.NewRule(nft.InBoxes{Family: nft.IPv4, Set: "boxes"}, nft.Drop{})
	early := hook(drop)
	early.Priority--
	tables := []struct {
		name  string
		other bool // the table cannot be changed into those before it
		nft.Table
	}{
		{name: "one chain", Table: nft.Table{Chains: []nft.Chain{hook(drop)}}},
		{name: "other rules", Table: nft.Table{Chains: []nft.Chain{hook(count, drop)}}},
		{name: "rules in another order", Table: nft.Table{Chains: []nft.Chain{hook(drop, count)}}},
		{name: "a comment", Table: nft.Table{Chains: []nft.Chain{hook(nft.Rule{Statements: drop.Statements, Comment: "why"})}}},
		{name: "a second chain", Table: nft.Table{Chains: []nft.Chain{{Name: "a", Rules: []nft.Rule{count}}, hook(nft.NewRule(nft.Jump{Chain: "a"}))}}},
		{name: "a chain of chains", Table: nft.Table{Chains: []nft.Chain{hook(nft.NewRule(nft.Jump{Chain: "b"})), {Name: "b", Rules: []nft.Rule{nft.NewRule(nft.Jump{Chain: "c"})}}, {Name: "c"}}}},
		{name: "an empty map", Table: nft.Table{Sets: []nft.Set{vmap()}, Chains: []nft.Chain{hook(lookup)}}},
		{name: "a map", Table: nft.Table{Sets: []nft.Set{vmap(element("10.0.0.1/32", "a"), element("10.0.1.0/24", "a"))}, Chains: []nft.Chain{hook(lookup), {Name: "a"}}}},
		{name: "other elements", Table: nft.Table{Sets: []nft.Set{vmap(element("10.0.0.0/32", "a"), element("10.0.0.1/32", "b"), element("10.0.1.0/28", "b"))}, Chains: []nft.Chain{{Name: "b"}, hook(lookup), {Name: "a"}}}},
		{name: "a map without use", Table: nft.Table{Sets: []nft.Set{vmap(element("10.0.0.1/32", "a"))}, Chains: []nft.Chain{{Name: "a"}}}},
		{name: "a set", Table: nft.Table{Sets: []nft.Set{{Name: "s", Family: nft.IPv6, Elements: []nft.Element{element("2001:db8::/64", "")}}}, Chains: []nft.Chain{hook(drop)}}},
		{name: "a set of boxes", Table: nft.Table{Sets: []nft.Set{boxes(80, 90)}, Chains: []nft.Chain{hook(inBoxes)}}},
		{name: "other boxes", Table: nft.Table{Sets: []nft.Set{boxes(85, 85)}, Chains: []nft.Chain{hook(inBoxes)}}},
		{name: "exact addresses", Table: nft.Table{Sets: []nft.Set{{Name: "e", Family: nft.IPv4, Kind: nft.Addrs, IsMap: true, Elements: []nft.Element{element("10.0.0.1/32", "a"), element("10.0.0.2/32", "a")}}}, Chains: []nft.Chain{{Name: "a"}}}},
		{name: "other exact addresses", Table: nft.Table{Sets: []nft.Set{{Name: "e", Family: nft.IPv4, Kind: nft.Addrs, IsMap: true, Elements: []nft.Element{element("10.0.0.1/32", "b"), element("10.0.0.3/32", "a")}}}, Chains: []nft.Chain{{Name: "a"}, {Name: "b"}}}},
		{name: "links", Table: nft.Table{Sets: []nft.Set{{Name: "l", Kind: nft.Links, Elements: []nft.Element{{Link: "a"}, {Link: "b"}}}}, Chains: []nft.Chain{hook(nft.NewRule(nft.LinkIn{Set: "l"}, nft.Drop{}))}}},
		{name: "other links", Table: nft.Table{Sets: []nft.Set{{Name: "l", Kind: nft.Links, Elements: []nft.Element{{Link: "b"}, {Link: "c"}}}}, Chains: []nft.Chain{hook(nft.NewRule(nft.LinkIn{Set: "l"}, nft.Drop{}))}}},
		{name: "another priority", other: true, Table: nft.Table{Chains: []nft.Chain{early}}},
		{name: "a set instead of the map", other: true, Table: nft.Table{Sets: []nft.Set{{Name: "m", Family: nft.IPv4}}, Chains: []nft.Chain{hook(drop)}}},
	}
	ns, s, _ := monitored(t)
	for _, from := range tables {
		for _, to := range tables {
			t.Run(fmt.Sprintf("%s to %s", from.name, to.name), func(t *testing.T) {
				from.Name, to.Name = "ours", "ours"
				replace(t, s, from.Table)
				before := handle(t, s)
				if err := s.Change(read(t, s), to.Table); err != nil {
					t.Fatal(err)
				}
				if got := read(t, s); !got.Equal(to.Table) {
					t.Errorf("(-want +got):\n%s", cmp.Diff(to.String(), got.String()))
				}
				if same := handle(t, s) == before; !same && !from.other && !to.other {
					t.Error("the table was made again")
				}
				if script := nft.Diff(from.Table, to.Table); script != "" || from.name != to.name {
					replace(t, s, from.Table)
					run(t, ns, script)
					if got := read(t, s); !got.Equal(to.Table) {
						t.Errorf("by the script\n%s(-want +got):\n%s", script, cmp.Diff(to.String(), got.String()))
					}
				}
			})
		}
	}
}

// TestChangeOfAnotherTable tells Change that the table is another one than it is.
func TestChangeOfAnotherTable(t *testing.T) {
	s := socket(t)
	one := nft.Table{Name: "ours", Chains: []nft.Chain{{Name: "one"}, {Name: "gone", Rules: []nft.Rule{nft.NewRule(nft.Drop{})}}}}
	two := nft.Table{Name: "ours", Chains: []nft.Chain{{Name: "two"}}}
	for _, is := range []nft.Table{{Name: "ours"}, two} {
		replace(t, s, is)
		if err := s.Change(one, two); err != nil {
			t.Fatal(err)
		}
		if got := read(t, s); !got.Equal(two) {
			t.Errorf("(-want +got):\n%s", cmp.Diff(two.String(), got.String()))
		}
	}
}

func handle(t *testing.T, s *nft.Socket) uint64 {
	t.Helper()
	h, err := nft.Handle(s, "ours")
	if err != nil {
		t.Fatal(err)
	}
	return h
}
