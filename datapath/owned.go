// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Owned returns the part of a namespace's state that n is responsible for: what
// EnsureNode may change or delete. It has nothing that belongs to single pods:
//   - rules at our priorities with our protocol;
//   - routes with our protocol, everything in the ENIs' tables, TablePods,
//     TableNowhere and TableHeld, and routes of table main that lead out by a secondary
//     ENI, such as a default route by DHCP;
//   - global addresses and permanent neighbours of secondary ENIs;
//   - links and settings that n names;
//   - our nftables tables, without the links of pods.
func (n Node) Owned(s netstate.State) netstate.State { return n.owned(s, n.State()) }

// owned is Owned, with the result of n.State.
func (n Node) owned(s, want netstate.State) netstate.State {
	o := netstate.State{Filter: s.Filter, Flows: s.Flows}
	o.Flows.Links = filtered(s.Flows.Links, func(l netstate.FlowLink) bool { return l.ENI })
	for _, l := range s.Links {
		for _, w := range want.Links {
			if l.Name == w.Name {
				l.Kind = ""
				o.Links = append(o.Links, l)
			}
		}
	}
	wanted := settingsOf(want.Sysctls)
	for _, x := range s.Sysctls {
		if _, ok := wanted[x.Key]; ok {
			o.Sysctls = append(o.Sysctls, x)
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
		(r.Table == claims.TablePods || r.Table == netstate.TableMain) && n.isPodLink(r.Link)
}

// podRule reports whether r, a rule of this package, belongs to one pod.
func podRule(r netstate.Rule) bool {
	return r.Priority == claims.PriorityBranch || r.Priority == claims.PriorityForged || r.Priority == claims.PriorityToPod && r.To.IsValid() || r.Priority == claims.PriorityFromPod && r.From.IsValid()
}

// podOf returns the pod's address in a rule for a pod.
func podOf(r netstate.Rule) netip.Prefix {
	if r.From.IsValid() {
		return r.From
	}
	return r.To
}

// orphansOf returns the deletion of those rules that belong to pods that are gone: no
// route leads to the pod's address, or by its link.
func orphansOf(rules []netstate.Rule, routes []netstate.Route) []netstate.Change {
	reached, used := map[netip.Prefix]bool{}, map[string]bool{}
	for _, r := range routes {
		if r.Protocol == claims.RouteProtocol {
			reached[r.Dst] = reached[r.Dst] || r.Table == netstate.TableMain
			used[r.Link] = true
		}
	}
	var changes []netstate.Change
	for _, r := range rules {
		if r.IIF != "" && !used[r.IIF] || r.IIF == "" && !reached[podOf(r)] {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
	}
	return changes
}

// ownership tells which items of a node's state belong to pods.
type ownership struct {
	// links belong to one pod alone, with all that is on them; shared links to several.
	links, shared map[string]bool
	// addrs are the pods' addresses. On another link than the pod's they would take
	// its packets.
	addrs map[netip.Prefix]bool
	// settings are those that the pods need.
	settings []netstate.Sysctl
}

func newOwnership() ownership {
	return ownership{links: map[string]bool{}, shared: map[string]bool{}, addrs: map[netip.Prefix]bool{}}
}

// ownership returns the ownership of p alone, which needs host on the node.
func (p Pod) ownership(host netstate.State) ownership {
	o := newOwnership()
	o.add(p, host)
	return o
}

// add adds what belongs to p, which needs host on the node.
func (o *ownership) add(p Pod, host netstate.State) {
	links := p.mode().links(p)
	o.links[p.HostLink()] = true
	if links.own != "" {
		o.links[links.own] = true
	}
	if links.shared != "" {
		o.shared[links.shared] = true
	}
	for _, a := range p.Addrs {
		o.addrs[netstate.HostPrefix(a.Addr)] = true
	}
	o.settings = append(o.settings, host.Sysctls...)
}

func (o ownership) link(name string) bool { return o.links[name] || o.shared[name] }

func (o ownership) address(a netip.Addr) bool { return o.addrs[netstate.HostPrefix(a)] }

func (o ownership) neighbor(n netstate.Neighbor) bool {
	return o.links[n.Link] || o.shared[n.Link] && o.address(n.Addr)
}

func (o ownership) route(r netstate.Route) bool {
	return o.links[r.Link] || r.Protocol == claims.RouteProtocol && o.addrs[r.Dst]
}

// rule reports whether a pod owns r, whichever program has made r: a rule at our
// priorities for the pod's address decides about the pod's packets.
func (o ownership) rule(r netstate.Rule) bool {
	switch r.Priority {
	case claims.PriorityToPod:
		return o.addrs[r.To]
	case claims.PriorityFromPod:
		return o.addrs[r.From]
	case claims.PriorityBranch, claims.PriorityForged:
		return o.links[r.IIF]
	}
	return false
}

// of returns the part of a node's state that belongs to the pods.
func (o ownership) of(s netstate.State) netstate.State {
	return netstate.State{
		Links:     filtered(s.Links, func(l netstate.Link) bool { return o.link(l.Name) }),
		Addresses: filtered(s.Addresses, func(a netstate.Address) bool { return o.address(a.Prefix.Addr()) }),
		Neighbors: filtered(s.Neighbors, o.neighbor),
		Routes:    filtered(s.Routes, o.route),
		Rules:     filtered(s.Rules, o.rule),
		Sysctls:   netstate.Counterparts(s, netstate.State{Sysctls: o.settings}).Sysctls,
	}
}

// filtered returns the elements of s for which f is true.
func filtered[T any](s []T, f func(T) bool) (found []T) {
	for _, x := range s {
		if f(x) {
			found = append(found, x)
		}
	}
	return found
}
