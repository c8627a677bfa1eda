// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Desired is all that shall be on a node: the node's own part and its pods.
type Desired struct {
	Node Node
	// Pods are all pods that have an address of the node. One whose host link does
	// not exist is not wired yet, or no more, and wants nothing.
	Pods []Pod
}

// Drift returns the changes that make a node's whole state, as Observe reads it,
// what it should be. What belongs to pods that are not in d stays, but for rules
// that no pod's route belongs to. ENIs whose link is missing want nothing on it.
func (d Desired) Drift(have netstate.State) []netstate.Change {
	n, _ := d.Node.Resolve(have.Links) // an ENI without link is no drift
	wired := map[string]Pod{}
	for _, p := range d.Pods {
		p, _ = p.Resolve(have.Links)
		wired[p.HostLink()] = p
	}
	for name := range wired {
		if !isWired(have.Links, name) {
			delete(wired, name)
		}
	}
	wants, owns := []netstate.State{n.stateIn(have)}, n.Owned(have)
	for _, p := range wired {
		wants = append(wants, p.HostState())
	}
	return netstate.Diff(netstate.Join(owns, podsOwned(have, wired)), netstate.Join(wants...))
}

// isWired reports whether a host link exists, its AddPod is done with it, and no DEL is
// at work on it or done with it.
func isWired(links []netstate.Link, name string) bool {
	for _, l := range links {
		if l.Name == name {
			return !claims.Changing(l.Group)
		}
	}
	return false
}

// podsOwned returns what belongs to the pods, by host link, their addresses where
// the node has them, and rules of pods that no route leads to.
func podsOwned(have netstate.State, wired map[string]Pod) netstate.State {
	var o netstate.State
	wired, shared := withFurtherLinks(wired)
	addrs := map[netip.Prefix]bool{}
	var settings []netstate.Sysctl
	for _, p := range wired {
		for _, a := range p.Addrs {
			addrs[netstate.HostPrefix(a.Addr)] = true
		}
		settings = append(settings, p.HostState().Sysctls...)
	}
	o.Sysctls = netstate.Counterparts(have, netstate.State{Sysctls: settings}).Sysctls
	for _, a := range have.Addresses {
		if addrs[netstate.HostPrefix(a.Prefix.Addr())] {
			o.Addresses = append(o.Addresses, a)
		}
	}
	for _, l := range have.Links {
		if _, ok := wired[l.Name]; ok || shared[l.Name] {
			o.Links = append(o.Links, l)
		}
	}
	for _, n := range have.Neighbors {
		if _, ok := wired[n.Link]; ok || shared[n.Link] && addrs[netstate.HostPrefix(n.Addr)] {
			o.Neighbors = append(o.Neighbors, n)
		}
	}
	for _, r := range have.Routes {
		if _, ok := wired[r.Link]; ok || r.Protocol == claims.RouteProtocol && addrs[r.Dst] {
			o.Routes = append(o.Routes, r)
		}
	}
	var others []netstate.Rule
	for _, r := range have.Rules {
		switch {
		case !claims.OwnedRule(r) || !podRule(r):
		case r.IIF == "" && addrs[podOf(r)], hasKey(wired, r.IIF):
			o.Rules = append(o.Rules, r)
		default:
			others = append(others, r)
		}
	}
	for _, c := range orphansOf(others, have.Routes) {
		o.Rules = append(o.Rules, c.Item.(netstate.Rule))
	}
	return o
}

func hasKey(m map[string]Pod, key string) bool {
	_, ok := m[key]
	return ok
}
