// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Canonical returns s in canonical order without duplicates; s stays as it is. The order
// is one in which additions succeed: what a route names comes before it.
func (s State) Canonical() State {
	s.Links = sorted(s.Links, compareLinks)
	s.Addresses = sorted(s.Addresses, compareAddresses)
	s.Neighbors = sorted(s.Neighbors, compareNeighbors)
	s.Routes = sorted(s.Routes, compareRoutes)
	s.Rules = sorted(s.Rules, compareRules)
	s.Sysctls = sorted(s.Sysctls, compareSysctls)
	s.Filter.Sources = sorted(s.Filter.Sources, compareSources)
	return s
}

func sorted[T comparable](items []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(items, compare) && !hasTwins(items) {
		return items
	}
	items = slices.Clone(items)
	slices.SortFunc(items, compare)
	return slices.Compact(items)
}

// hasTwins reports whether two neighbours in a sorted list are equal.
func hasTwins[T comparable](items []T) bool {
	for i := 1; i < len(items); i++ {
		if items[i] == items[i-1] {
			return true
		}
	}
	return false
}

func compareLinks(a, b Link) int {
	return cmp.Or(
		strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind), strings.Compare(a.MAC, b.MAC),
		cmp.Compare(a.MTU, b.MTU), compareBools(a.Up, b.Up), strings.Compare(a.Peer, b.Peer), cmp.Compare(a.Group, b.Group),
		strings.Compare(a.Parent, b.Parent), cmp.Compare(a.VLAN, b.VLAN), strings.Compare(a.Master, b.Master),
		strings.Compare(a.Alias, b.Alias))
}

func compareAddresses(a, b Address) int {
	return cmp.Or(strings.Compare(a.Link, b.Link), a.Prefix.Compare(b.Prefix), compareBools(a.NoPrefixRoute, b.NoPrefixRoute))
}

func compareNeighbors(a, b Neighbor) int {
	return cmp.Or(a.Addr.Compare(b.Addr), strings.Compare(a.Link, b.Link), strings.Compare(a.MAC, b.MAC))
}

// compareRoutes puts routes by a gateway behind those to it.
func compareRoutes(a, b Route) int {
	return cmp.Or(
		compareBools(a.Dst.Addr().Is6(), b.Dst.Addr().Is6()), compareBools(a.Via.IsValid(), b.Via.IsValid()),
		cmp.Compare(a.Table, b.Table), a.Dst.Compare(b.Dst), cmp.Compare(a.Metric, b.Metric),
		strings.Compare(a.Link, b.Link), a.Via.Compare(b.Via), a.Src.Compare(b.Src),
		cmp.Compare(a.MTU, b.MTU), cmp.Compare(a.Protocol, b.Protocol), strings.Compare(a.Type, b.Type), strings.Compare(a.Other, b.Other))
}

func compareRules(a, b Rule) int {
	return cmp.Or(
		compareBools(a.IPv6, b.IPv6), cmp.Compare(a.Priority, b.Priority),
		comparePrefixes(a.From, b.From), comparePrefixes(a.To, b.To),
		cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Mask, b.Mask), strings.Compare(a.IIF, b.IIF),
		cmp.Compare(a.IPProto, b.IPProto), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Protocol, b.Protocol), strings.Compare(a.Other, b.Other))
}

// compareSysctls puts those of links first: when a node begins to forward, the
// kernel drops default routes from router advertisements, but not those of links
// with accept_ra=2.
func compareSysctls(a, b Sysctl) int {
	return cmp.Or(compareBools(a.global(), b.global()), strings.Compare(a.Key, b.Key), strings.Compare(a.Value, b.Value))
}

func (s Sysctl) global() bool {
	return !strings.Contains(s.Key, ".conf.") || strings.Contains(s.Key, ".conf.all.")
}

func compareSources(a, b Source) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), strings.Compare(a.Chain, b.Chain))
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(compareBools(a.IsValid(), b.IsValid()), a.Compare(b))
}

func compareBools(a, b bool) int { return btoi(a) - btoi(b) }

// Keys tell which item of a namespace another would replace.

type linkAddr struct {
	link string
	addr netip.Addr
}

type linkPrefix struct {
	link   string
	prefix netip.Prefix
}

type routeKey struct {
	table, metric int
	dst           netip.Prefix
}

func (l Link) key() string        { return l.Name }
func (a Address) key() linkPrefix { return linkPrefix{a.Link, a.Prefix} }
func (n Neighbor) key() linkAddr  { return linkAddr{n.Link, n.Addr} }
func (r Route) key() routeKey     { return routeKey{r.Table, r.Metric, r.Dst} }
func (r Rule) key() Rule          { return r }
func (s Sysctl) key() string      { return s.Key }
