// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// FilterTable is the name of the nftables table, of family inet.
const FilterTable = "vpcnet"

// Names of the maps from sources to chains.
const (
	SourceMap4 = "source4"
	SourceMap6 = "source6"
)

// Filter is the nftables table of package datapath. The zero value describes no table.
type Filter struct {
	Chains []Chain
	// Sources are the elements of the maps source4 and source6.
	Sources []Source
}

// Chain is a chain of the table.
type Chain struct {
	Name string
	// Hook and Priority are set for a base chain. Hook is "unknown" if the chain is on
	// another hook than prerouting, of another type than filter, or has a policy that
	// drops.
	Hook     string
	Priority int
	Rules    []FilterRule
}

// FilterRule is a rule of a [Chain]. It prints itself, also in JSON, as a string in the
// notation of nft, and UnmarshalText parses such a string. In the text, # marks a part of
// another program's rule that this module cannot interpret. Such a rule can be shown and
// compared, but not written.
type FilterRule = nft.Rule

// Source sends packets from a prefix to a chain.
type Source struct {
	Prefix netip.Prefix
	Chain  string
}

// empty reports whether f describes no table: it has no chains.
func (f Filter) empty() bool { return len(f.Chains) == 0 }

// SourceMap returns the map that s belongs to, with s as its only element.
func (s Source) SourceMap() nft.Set {
	m := sourceMap(nft.FamilyOf(s.Prefix.Addr()))
	m.Elements = []nft.Element{{Prefix: s.Prefix, Chain: s.Chain}}
	return m
}

func sourceMap(f nft.Family) nft.Set {
	name := SourceMap4
	if f == nft.IPv6 {
		name = SourceMap6
	}
	return nft.Set{Name: name, Family: f, IsMap: true}
}

// Table returns the nftables table that f describes.
func (f Filter) Table() nft.Table {
	t := nft.Table{Name: FilterTable}
	if f.empty() {
		return t
	}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		m := sourceMap(family)
		for _, s := range f.Sources {
			if nft.FamilyOf(s.Prefix.Addr()) == family {
				m.Elements = append(m.Elements, nft.Element{Prefix: s.Prefix, Chain: s.Chain})
			}
		}
		t.Sets = append(t.Sets, m)
	}
	for _, c := range f.Chains {
		chain := nft.Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: c.Rules}
		if c.Hook != "" {
			chain.Type = nft.TypeFilter
		}
		t.Chains = append(t.Chains, chain)
	}
	return t
}

// FilterOf returns the Filter that describes an nftables table. If a map is missing, or the
// table contains something that a Filter cannot describe, the Filter has an additional chain
// with a name that says so. It then differs from every Filter of a node.
func FilterOf(t nft.Table) Filter {
	var f Filter
	if len(t.Chains) == 0 {
		return f
	}
	for _, c := range t.Chains {
		known := c.Hook == "" || c.Hook == nft.HookPrerouting && c.Type == nft.TypeFilter
		if c.Foreign != "" || !known {
			c.Hook = "unknown"
		}
		f.Chains = append(f.Chains, Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: c.Rules})
	}
	if t.Foreign != "" {
		f.Chains = append(f.Chains, Chain{Name: t.Foreign})
	}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		want := sourceMap(family)
		i := slices.IndexFunc(t.Sets, func(s nft.Set) bool { return s.Name == want.Name })
		if i < 0 {
			f.Chains = append(f.Chains, Chain{Name: "no " + want.Name})
			continue
		}
		have := t.Sets[i]
		switch {
		case have.Foreign != "":
			f.Chains = append(f.Chains, Chain{Name: have.Name + " " + have.Foreign})
		case have.Family != want.Family || have.IsMap != want.IsMap:
			f.Chains = append(f.Chains, Chain{Name: have.Name + " of another type"})
		}
		for _, e := range have.Elements {
			f.Sources = append(f.Sources, Source{Prefix: e.Prefix, Chain: e.Chain})
		}
	}
	return f
}

// String returns the table in the notation of `nft list table`.
func (f Filter) String() string { return f.Table().String() }

// diffFilter returns the whole table if its chains differ, and otherwise changes only
// elements of its maps. Both filters are in canonical order.
func diffFilter(have, want Filter) (add, del []Change) {
	switch {
	case have.empty() && want.empty():
		return nil, nil
	case want.empty():
		return nil, []Change{{OpDelete, have}}
	case !reflect.DeepEqual(have.Chains, want.Chains):
		return []Change{{OpAdd, want}}, nil
	}
	// The kernel cannot change the verdict of an element and refuses elements that
	// overlap, so old elements are deleted first. This interrupts no pod, since an
	// address leaves an ENI only after its last pod has ended.
	keep := map[Source]bool{}
	for _, s := range want.Sources {
		keep[s] = true
	}
	for _, s := range have.Sources {
		if !keep[s] {
			add = append(add, Change{OpDelete, s})
		}
		delete(keep, s)
	}
	for _, s := range want.Sources {
		if keep[s] {
			add = append(add, Change{OpAdd, s})
		}
	}
	return add, nil
}
