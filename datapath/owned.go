// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
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
func (n Node) Owned(s netstate.State) netstate.State {
	want := n.State()
	o := netstate.State{Filter: s.Filter}
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
		if claims.OwnedRule(r) && !podRule(r) || n.ownsLocalRule(r) {
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

func (n Node) ownsRoute(r netstate.Route) bool {
	if n.podRoute(r) {
		return false
	}
	if r.Protocol == claims.RouteProtocol || n.secondary(r.Link) || r.Table == claims.TablePods || r.Table == claims.TableNowhere || r.Table == claims.TableHeld {
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
func (n Node) podRoute(r netstate.Route) bool {
	if r.Protocol == claims.RouteProtocol && claims.IsBranchLink(r.Link) {
		return true
	}
	return r.Protocol == claims.RouteProtocol && r.Dst.IsSingleIP() && !r.Via.IsValid() &&
		(r.Table == claims.TablePods || r.Table == netstate.TableMain) && strings.HasPrefix(r.Link, n.prefix())
}

// podRule reports whether r, a rule of this package, belongs to one pod.
func podRule(r netstate.Rule) bool {
	return r.Priority == claims.PriorityBranch || r.Priority == claims.PriorityForged || r.Priority == claims.PriorityToPod && r.To.IsValid() || r.Priority == claims.PriorityFromPod && r.From.IsValid()
}

// podOf returns the address that a pod's rule is about.
func podOf(r netstate.Rule) netip.Prefix {
	if r.From.IsValid() {
		return r.From
	}
	return r.To
}

// orphansOf returns the deletion of those rules of pods that no route to the pod
// goes with.
func orphansOf(rules []netstate.Rule, routes []netstate.Route) []netstate.Change {
	leads, ends := map[netip.Prefix]bool{}, map[string]bool{}
	for _, r := range routes {
		if r.Protocol == claims.RouteProtocol {
			leads[r.Dst] = leads[r.Dst] || r.Table == netstate.TableMain
			ends[r.Link] = true
		}
	}
	var changes []netstate.Change
	for _, r := range rules {
		if r.IIF != "" && !ends[r.IIF] || r.IIF == "" && !leads[podOf(r)] {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
	}
	return changes
}

// owned returns the part of a node's state that belongs to p: its host link with
// all that is on it, rules for its addresses at our priorities, and its addresses
// on any link, where they would take its packets from it.
func (p Pod) owned(s netstate.State) netstate.State {
	var o netstate.State
	for _, l := range s.Links {
		if p.ownsLink(l.Name) || p.sharesLink(l.Name) {
			o.Links = append(o.Links, l)
		}
	}
	for _, a := range s.Addresses {
		if p.has(netstate.HostPrefix(a.Prefix.Addr())) {
			o.Addresses = append(o.Addresses, a)
		}
	}
	for _, n := range s.Neighbors {
		if p.ownsLink(n.Link) || p.sharesLink(n.Link) && p.has(netstate.HostPrefix(n.Addr)) {
			o.Neighbors = append(o.Neighbors, n)
		}
	}
	for _, r := range s.Routes {
		if p.ownsLink(r.Link) || r.Protocol == claims.RouteProtocol && p.has(r.Dst) {
			o.Routes = append(o.Routes, r)
		}
	}
	for _, r := range s.Rules {
		if r.Priority == claims.PriorityToPod && p.has(r.To) || r.Priority == claims.PriorityFromPod && p.has(r.From) ||
			(r.Priority == claims.PriorityBranch || r.Priority == claims.PriorityForged) && p.ownsLink(r.IIF) {
			o.Rules = append(o.Rules, r)
		}
	}
	o.Sysctls = netstate.Counterparts(s, netstate.State{Sysctls: p.HostState().Sysctls}).Sysctls
	return o
}

// ownedInSandbox returns what stands in the place of something that p wants in
// its sandbox. Whatever else is there belongs to the pod and its other plugins.
func (p Pod) ownedInSandbox(s netstate.State) netstate.State {
	return netstate.Counterparts(s, p.SandboxState())
}

// has reports whether x is one of p's addresses.
func (p Pod) has(x netip.Prefix) bool {
	for _, a := range p.Addrs {
		if x == netstate.HostPrefix(a.Addr) {
			return true
		}
	}
	return false
}
