// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
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
	// Limited are addresses of pods that must have all packets pass the forward hook, because
	// package policy or another program may stop them there: their flows are not
	// accelerated. Optional.
	Limited []netip.Addr
}

// Validate reports everything that is wrong with d: with the node, with each pod, and with
// the pods on this node. A pod that is joined by a veth pair needs addresses of one of the
// node's ENIs and the table of that ENI, and no two pods can have the same address or host
// link. AddPod does not know the node, and so cannot check this.
func (d Desired) Validate() error {
	errs := []error{d.Node.Validate()}
	owner := map[string]string{}
	for _, p := range d.Pods {
		name := p.ContainerID + "/" + p.IfName
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		claim := func(what string) {
			if other, ok := owner[what]; ok {
				errs = append(errs, fmt.Errorf("%s and %s have the same %s", other, name, what))
			}
			owner[what] = name
		}
		claim("host link " + p.HostLink())
		if link := p.NodeLink(); link != "" && !d.Node.isPodLink(link) && !claims.IsBranchLink(link) {
			errs = append(errs, fmt.Errorf("%s: link %q neither begins with the host link prefix %q nor is one of the node's links of pods", name, link, d.Node.prefix()))
		}
		for _, a := range p.Addrs {
			claim("address " + a.Addr.String())
			if err := d.Node.validateOn(p, a); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// validateOn reports why an address of a pod cannot be on the node.
func (n Node) validateOn(p Pod, a PodAddr) error {
	for _, e := range n.ENIs {
		for _, own := range e.Addrs {
			if own.Addr() == a.Addr {
				return fmt.Errorf("%v is the own address of %s", a.Addr, e.ID)
			}
		}
		for _, s := range e.Sources {
			switch {
			case !s.Contains(a.Addr):
			case cmp.Or(a.Table, netstate.TableMain) != e.Table():
				return fmt.Errorf("%v belongs to %s, which has table %d, and not table %d", a.Addr, e.ID, e.Table(), a.Table)
			default:
				return nil
			}
		}
	}
	if !p.fromNode() {
		return nil
	}
	return fmt.Errorf("no ENI has %v among its sources", a.Addr)
}

// Drift returns the changes that make a node's whole state, as Observe reads it, what
// it should be. Items of pods that are not in d stay, except rules of pods to which no
// route leads. An ENI without link needs nothing.
func (d Desired) Drift(have netstate.State) []netstate.Change {
	n, _ := d.Node.on(have).Resolve(have.Links) // an ENI without link is not drift
	present := settingsOf(have.Sysctls)
	pods := newOwnership()
	owned, want := n.parts(have)
	wants := []netstate.State{want}
	for _, p := range d.wired(have.Links) {
		host := p.HostState()
		wants = append(wants, present.effective(host))
		pods.add(p, host)
	}
	return netstate.Diff(netstate.Join(owned, withOrphans(pods, have)), netstate.Join(wants...))
}

// wired returns, by host link, the pods that an AddPod has wired to the end and that no
// DEL has begun to take apart.
func (d Desired) wired(links []netstate.Link) map[string]Pod {
	done := map[string]bool{}
	for _, l := range links {
		done[l.Name] = !claims.Changing(l.Group)
	}
	wired := map[string]Pod{}
	for _, p := range d.resolved(links).Pods {
		p, _ = p.withENIs(links) // an ENI without link is not drift
		if name := p.HostLink(); done[name] {
			wired[name] = p
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
