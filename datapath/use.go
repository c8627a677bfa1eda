// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Use is an address that the kernel says something uses. See [Handle.InUse].
type Use struct {
	Addr netip.Addr
	// Link is the name of the link that has the address or leads to it.
	Link string
	// Local says that the address is on a link of the namespace itself, which
	// takes packets for it; otherwise Link leads to a pod.
	Local bool
}

// usesOf selects from a state what [Handle.InUse] reports. A link that the state
// does not have counts, because the state may be older than the link.
func usesOf(s netstate.State, within []netip.Prefix) []Use {
	links := map[string]netstate.Link{}
	for _, l := range s.Links {
		links[l.Name] = l
	}
	asked := newPrefixSet(within)
	var uses []Use
	add := func(u Use) {
		if l := links[u.Link]; u.Link != "" && !claims.Ending(l.Group) && asked.contains(u.Addr) {
			uses = append(uses, u)
		}
	}
	for _, r := range s.Routes {
		if leadsToOne(r) {
			add(Use{Addr: r.Dst.Addr(), Link: r.Link})
		}
	}
	for _, n := range s.Neighbors {
		if l, known := links[n.Link]; !known || l.Kind != "" {
			add(Use{Addr: n.Addr, Link: n.Link})
		}
	}
	for _, a := range s.Addresses {
		add(Use{Addr: a.Prefix.Addr(), Link: a.Link, Local: true})
	}
	return sortedUses(uses)
}

// leadsToOne reports whether r leads to one address directly on its link, as
// routes to pods do in every CNI plugin that routes.
func leadsToOne(r netstate.Route) bool {
	return r.Dst.IsSingleIP() && r.Type == "" && !r.Via.IsValid() && r.Other == "" && r.Link != ""
}

func sortedUses(uses []Use) []Use {
	slices.SortFunc(uses, func(a, b Use) int {
		return cmp.Or(a.Addr.Compare(b.Addr), strings.Compare(a.Link, b.Link), cmp.Compare(fmt.Sprint(a.Local), fmt.Sprint(b.Local)))
	})
	return slices.Compact(uses)
}

// prefixSet answers whether an address is in one of many prefixes: a pool of single
// addresses has hundreds of them, and so have the routes.
type prefixSet struct {
	prefixes map[netip.Prefix]bool
	lengths  []lengthOf
}

// lengthOf is a length of prefixes of one family.
type lengthOf struct {
	ipv6 bool
	bits int
}

func newPrefixSet(prefixes []netip.Prefix) prefixSet {
	s := prefixSet{prefixes: map[netip.Prefix]bool{}}
	for _, p := range prefixes {
		s.prefixes[p.Masked()] = true
		if l := (lengthOf{p.Addr().Is6(), p.Bits()}); !slices.Contains(s.lengths, l) {
			s.lengths = append(s.lengths, l)
		}
	}
	return s
}

func (s prefixSet) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.lengths, func(l lengthOf) bool {
		return l.ipv6 == a.Is6() && s.prefixes[netip.PrefixFrom(a, l.bits).Masked()]
	})
}
