// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"strings"
)

// Owned returns the part of a namespace's state that n is responsible for: what
// EnsureNode may change or delete. That is, without what belongs to single pods:
//   - rules at our priorities with our protocol;
//   - routes with our protocol, everything in the ENIs' tables, TablePods,
//     TableNowhere and TableHeld, and what leads out of table main by a secondary ENI, such as a
//     default route by DHCP;
//   - global addresses and permanent neighbours of secondary ENIs;
//   - links and settings that n names;
//   - our nftables table.
func (n Node) Owned(s State) State {
	want := n.State()
	o := State{Filter: s.Filter}
	for _, l := range s.Links {
		for _, w := range want.Links {
			if l.Name == w.Name {
				l.Kind = ""
				o.Links = append(o.Links, l)
			}
		}
	}
	for _, x := range s.Sysctls {
		for _, w := range want.Sysctls {
			if x.Key == w.Key {
				o.Sysctls = append(o.Sysctls, x)
			}
		}
	}
	for _, a := range s.Addresses {
		if n.secondary(a.Link) && !a.Prefix.Addr().IsLinkLocalUnicast() {
			o.Addresses = append(o.Addresses, a)
		}
	}
	for _, x := range s.Neighbors {
		if n.secondary(x.Link) {
			o.Neighbors = append(o.Neighbors, x)
		}
	}
	for _, r := range s.Routes {
		if n.ownsRoute(r) {
			o.Routes = append(o.Routes, r)
		}
	}
	for _, r := range s.Rules {
		if ownedRule(r) && !podRule(r) || n.ownsLocalRule(r) {
			o.Rules = append(o.Rules, r)
		}
	}
	return o.Canonical()
}

// secondary reports whether link is that of a secondary ENI of n.
func (n Node) secondary(link string) bool {
	for _, e := range n.ENIs {
		if link != "" && e.Link == link && !e.Primary() {
			return true
		}
	}
	return false
}

func (n Node) ownsRoute(r Route) bool {
	if n.podRoute(r) {
		return false
	}
	if r.Protocol == RouteProtocol || n.secondary(r.Link) || r.Table == TablePods || r.Table == TableNowhere || r.Table == TableHeld {
		return true
	}
	for _, e := range n.ENIs {
		if !e.Primary() && r.Table == e.Table() {
			return true
		}
	}
	return false
}

// podRoute reports whether r leads to a pod of this node.
func (n Node) podRoute(r Route) bool {
	if r.Protocol == RouteProtocol && isBranchLink(r.Link) {
		return true
	}
	return r.Protocol == RouteProtocol && r.Dst.IsSingleIP() && !r.Via.IsValid() &&
		(r.Table == TablePods || r.Table == TableMain) && strings.HasPrefix(r.Link, n.prefix())
}

// ownedRule reports whether r is a rule of this package.
func ownedRule(r Rule) bool {
	if r.Protocol != ruleProtocol || r.Other != "" {
		return false
	}
	switch r.Priority {
	case PriorityBranch, PriorityForged, PriorityToPod, PriorityPrimaryMark, PriorityHeld, PriorityService, PriorityFromPod, PriorityFromENI:
		return true
	}
	return false
}

// podRule reports whether r, a rule of this package, belongs to one pod.
func podRule(r Rule) bool {
	return r.Priority == PriorityBranch || r.Priority == PriorityForged || r.Priority == PriorityToPod && r.To.IsValid() || r.Priority == PriorityFromPod && r.From.IsValid()
}

// podOf returns the address that a pod's rule is about.
func podOf(r Rule) netip.Prefix {
	if r.From.IsValid() {
		return r.From
	}
	return r.To
}

// orphansOf returns the deletion of those rules of pods that no route to the pod
// goes with.
func orphansOf(rules []Rule, routes []Route) []Change {
	leads, ends := map[netip.Prefix]bool{}, map[string]bool{}
	for _, r := range routes {
		if r.Protocol == RouteProtocol {
			leads[r.Dst] = leads[r.Dst] || r.Table == TableMain
			ends[r.Link] = true
		}
	}
	var changes []Change
	for _, r := range rules {
		if r.IIF != "" && !ends[r.IIF] || r.IIF == "" && !leads[podOf(r)] {
			changes = append(changes, Change{OpDelete, r})
		}
	}
	return changes
}

// owned returns the part of a node's state that belongs to p: its host link with
// all that is on it, rules for its addresses at our priorities, and its addresses
// on any link, where they would take its packets from it.
func (p Pod) owned(s State) State {
	var o State
	for _, l := range s.Links {
		if p.ownsLink(l.Name) || p.sharesLink(l.Name) {
			o.Links = append(o.Links, l)
		}
	}
	for _, a := range s.Addresses {
		if p.has(hostPrefix(a.Prefix.Addr())) {
			o.Addresses = append(o.Addresses, a)
		}
	}
	for _, n := range s.Neighbors {
		if p.ownsLink(n.Link) || p.sharesLink(n.Link) && p.has(hostPrefix(n.Addr)) {
			o.Neighbors = append(o.Neighbors, n)
		}
	}
	for _, r := range s.Routes {
		if p.ownsLink(r.Link) || r.Protocol == RouteProtocol && p.has(r.Dst) {
			o.Routes = append(o.Routes, r)
		}
	}
	for _, r := range s.Rules {
		if r.Priority == PriorityToPod && p.has(r.To) || r.Priority == PriorityFromPod && p.has(r.From) ||
			(r.Priority == PriorityBranch || r.Priority == PriorityForged) && p.ownsLink(r.IIF) {
			o.Rules = append(o.Rules, r)
		}
	}
	o.Sysctls = counterparts(s.Sysctls, p.HostState().Sysctls, Sysctl.key)
	return o
}

// ownedInSandbox returns what stands in the place of something that p wants in
// its sandbox. Whatever else is there belongs to the pod and its other plugins.
func (p Pod) ownedInSandbox(s State) State {
	want := p.SandboxState()
	return State{
		Links:     counterparts(s.Links, want.Links, Link.key),
		Addresses: counterparts(s.Addresses, want.Addresses, Address.key),
		Neighbors: counterparts(s.Neighbors, want.Neighbors, Neighbor.key),
		Routes:    counterparts(s.Routes, want.Routes, Route.key),
		Rules:     counterparts(s.Rules, want.Rules, Rule.key),
		Sysctls:   counterparts(s.Sysctls, want.Sysctls, Sysctl.key),
	}
}

// counterparts returns the items of have that have the key of one of want.
func counterparts[T any, K comparable](have, want []T, key func(T) K) []T {
	wanted := map[K]bool{}
	for _, w := range want {
		wanted[key(w)] = true
	}
	var found []T
	for _, i := range have {
		if wanted[key(i)] {
			found = append(found, i)
		}
	}
	return found
}

// has reports whether x is one of p's addresses.
func (p Pod) has(x netip.Prefix) bool {
	for _, a := range p.Addrs {
		if x == hostPrefix(a.Addr) {
			return true
		}
	}
	return false
}
