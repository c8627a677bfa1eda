// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Canonical returns a copy of s in canonical order, without duplicates. Items can be
// added in that order: a gateway's route comes before the routes that use it.
func (s State) Canonical() State {
	s.arrange(false)
	return s
}

// Sort puts the lists of s into canonical order, without duplicates. Unlike Canonical it
// changes them in place, so that a large state needs no second copy.
func (s *State) Sort() { s.arrange(true) }

// arrange is Sort if inPlace is set. Otherwise it copies the lists that it changes.
func (s *State) arrange(inPlace bool) {
	s.Links = sorted(s.Links, compareLinks, inPlace)
	s.Addresses = sorted(s.Addresses, compareAddresses, inPlace)
	s.Neighbors = sorted(s.Neighbors, compareNeighbors, inPlace)
	s.Routes = sorted(s.Routes, compareRoutes, inPlace)
	s.Rules = sorted(s.Rules, compareRules, inPlace)
	s.Sysctls = sorted(s.Sysctls, compareSysctls, inPlace)
	s.Filter.Sources = sorted(s.Filter.Sources, compareSources, inPlace)
	s.Flows.Links = sorted(s.Flows.Links, compareFlowLinks, inPlace)
	s.Flows.Chains = slices.SortedStableFunc(slices.Values(s.Flows.Chains), compareChains)
	s.Filter.Chains = slices.SortedStableFunc(slices.Values(s.Filter.Chains), compareChains)
}

func sorted[T comparable](items []T, compare func(a, b T) int, inPlace bool) []T {
	if slices.IsSortedFunc(items, compare) && !hasDuplicates(items) {
		return items
	}
	if !inPlace {
		items = slices.Clone(items)
	}
	slices.SortFunc(items, compare)
	return slices.Compact(items)
}

// hasDuplicates reports whether a sorted list contains equal items.
func hasDuplicates[T comparable](items []T) bool {
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

// compareChains puts base chains first. The order of chains has no meaning: in the kernel
// it is that of their creation.
func compareChains(a, b Chain) int {
	const digits = "0123456789"
	return cmp.Or(
		compareBools(a.Hook == "", b.Hook == ""),
		strings.Compare(strings.TrimRight(a.Name, digits), strings.TrimRight(b.Name, digits)),
		cmp.Compare(len(a.Name), len(b.Name)), strings.Compare(a.Name, b.Name))
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(compareBools(a.IsValid(), b.IsValid()), a.Compare(b))
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// A key identifies an item within a namespace: adding an item replaces the one that
// has the same key.

// NeighborKey is the key of a neighbour entry.
type NeighborKey struct {
	link string
	addr netip.Addr
}

// AddressKey is the key of an address.
type AddressKey struct {
	link   string
	prefix netip.Prefix
}

// RouteKey is the key of a route.
type RouteKey struct {
	table, metric int
	dst           netip.Prefix
}

// key returns the key of the link: its name.
func (l Link) key() string { return l.Name }

// Key returns the key of the address: link and prefix.
func (a Address) Key() AddressKey { return AddressKey{a.Link, a.Prefix} }

// Key returns the key of the entry: link and address.
func (n Neighbor) Key() NeighborKey { return NeighborKey{n.Link, n.Addr} }

// Key returns the key of the route: table, destination and metric.
func (r Route) Key() RouteKey { return RouteKey{r.Table, r.Metric, r.Dst} }

// key returns r: a namespace can have any number of rules that differ.
func (r Rule) key() Rule { return r }

func (s Sysctl) key() string { return s.Key }

// Counterparts returns the items of have that adding want would replace. It ignores
// filters.
func Counterparts(have, want State) State {
	return State{
		Links:     counterparts(have.Links, want.Links, Link.key),
		Addresses: counterparts(have.Addresses, want.Addresses, Address.Key),
		Neighbors: counterparts(have.Neighbors, want.Neighbors, Neighbor.Key),
		Routes:    counterparts(have.Routes, want.Routes, Route.Key),
		Rules:     counterparts(have.Rules, want.Rules, Rule.key),
		Sysctls:   counterparts(have.Sysctls, want.Sysctls, Sysctl.key),
	}
}

// counterparts returns the items of have that share a key with an item of want.
func counterparts[T any, K comparable](have, want []T, key func(T) K) []T {
	inWant := map[K]bool{}
	for _, w := range want {
		inWant[key(w)] = true
	}
	var found []T
	for _, i := range have {
		if inWant[key(i)] {
			found = append(found, i)
		}
	}
	return found
}

// HostPrefix returns the prefix that contains a alone.
func HostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
