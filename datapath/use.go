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

// Use is the use of an address according to the kernel. See [Handle.InUse].
type Use struct {
	Addr netip.Addr
	// Link is the name of the link that has the address or leads to it.
	Link string
	// Local means that the address is on a link of the namespace itself, which receives
	// packets for it; otherwise Link leads to a pod.
	Local bool
}

// usesOf selects the uses that [Handle.InUse] reports from a state. It also reports
// uses on a link that the state does not have, because the link may be newer than the
// state.
func usesOf(s netstate.State, within []netip.Prefix) []Use {
	links := map[string]netstate.Link{}
	for _, l := range s.Links {
		links[l.Name] = l
	}
	prefixes := newPrefixSet(within)
	var uses []Use
	add := func(u Use) {
		if l := links[u.Link]; u.Link != "" && !claims.Ending(l.Group) && prefixes.contains(u.Addr) {
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

// leadsToOne reports whether r leads to one address directly on its link, as routes to
// pods do in every CNI plugin that routes.
func leadsToOne(r netstate.Route) bool {
	return r.Dst.IsSingleIP() && r.Type == "" && !r.Via.IsValid() && r.Other == "" && r.Link != ""
}

func sortedUses(uses []Use) []Use {
	slices.SortFunc(uses, func(a, b Use) int {
		return cmp.Or(a.Addr.Compare(b.Addr), strings.Compare(a.Link, b.Link), cmp.Compare(fmt.Sprint(a.Local), fmt.Sprint(b.Local)))
	})
	return slices.Compact(uses)
}

// prefixSet finds out whether an address is in one of many prefixes: a pool of single
// addresses has hundreds of prefixes, and a node has hundreds of routes.
type prefixSet struct {
	prefixes map[netip.Prefix]bool
	lengths  []prefixLength
}

// prefixLength is a length of prefixes of one family.
type prefixLength struct {
	family netstate.Family
	bits   int
}

func newPrefixSet(prefixes []netip.Prefix) prefixSet {
	s := prefixSet{prefixes: map[netip.Prefix]bool{}}
	for _, p := range prefixes {
		s.prefixes[p.Masked()] = true
		if l := (prefixLength{netstate.FamilyOf(p.Addr()), p.Bits()}); !slices.Contains(s.lengths, l) {
			s.lengths = append(s.lengths, l)
		}
	}
	return s
}

func (s prefixSet) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.lengths, func(l prefixLength) bool {
		return l.family == netstate.FamilyOf(a) && s.prefixes[netip.PrefixFrom(a, l.bits).Masked()]
	})
}
