// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Desired is everything that should be on a node: the node's own part and its pods.
type Desired struct {
	Node Node
	// Pods are all pods that have an address of the node. A pod without host
	// link is not wired yet, or no longer, and needs nothing.
	Pods []Pod
}

// Drift returns the changes that make a node's whole state, as Observe reads it, what
// it should be. Items of pods that are not in d stay, except rules of pods to which no
// route leads. An ENI without link needs nothing.
func (d Desired) Drift(have netstate.State) []netstate.Change {
	n, _ := d.Node.on(have).Resolve(have.Links) // an ENI without link is not drift
	present := settingsOf(have.Sysctls)
	pods := newOwnership()
	wants := []netstate.State{n.stateIn(have)}
	for _, p := range d.wired(have.Links) {
		host := p.HostState()
		wants = append(wants, present.effective(host))
		pods.add(p, host)
	}
	return netstate.Diff(netstate.Join(n.Owned(have), withOrphans(pods, have)), netstate.Join(wants...))
}

// wired returns, by host link, the pods that an AddPod has wired to the end and that no
// DEL has begun to take apart.
func (d Desired) wired(links []netstate.Link) map[string]Pod {
	done := map[string]bool{}
	for _, l := range links {
		done[l.Name] = !claims.Changing(l.Group)
	}
	wired := map[string]Pod{}
	for _, p := range d.Pods {
		if p, _ = p.Resolve(links); done[p.HostLink()] {
			wired[p.HostLink()] = p
		}
	}
	return wired
}

// withOrphans returns what belongs to the pods, and rules of other pods that are gone.
// Rules of other programs stay, also those for a pod's address.
func withOrphans(pods ownership, have netstate.State) netstate.State {
	o := pods.of(have)
	o.Rules = slices.DeleteFunc(o.Rules, func(r netstate.Rule) bool { return !claims.OwnedRule(r) })
	others := filtered(have.Rules, func(r netstate.Rule) bool { return claims.OwnedRule(r) && podRule(r) && !pods.rule(r) })
	for _, c := range orphansOf(others, have.Routes) {
		o.Rules = append(o.Rules, c.Item.(netstate.Rule))
	}
	return o
}
