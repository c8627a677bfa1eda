// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Egress is the translation of a pod's packets of the family that its cluster does not
// have. Its fields are those of snat.Egress.
type Egress struct {
	// Pod is the pod's address and Node the one that its packets get.
	Pod, Node netip.Addr
	// Table is the nftables table with the translation.
	Table string
}

// egressTables begins the names of the tables of package snat for Egress.
const egressTables = "vpcnet-egress-"

// egressLinkOf returns the link of the node that leads to a pod with egress, or "".
func (v View) egressLinkOf(a netip.Addr) string {
	for _, r := range v.Node.Routes {
		if r.Dst == netstate.HostPrefix(a) && (strings.HasPrefix(r.Link, claims.EgressPrefix4) || strings.HasPrefix(r.Link, claims.EgressPrefix6)) {
			return r.Link
		}
	}
	return ""
}

// egress follows a packet from a pod with egress, and its answer. The node translates all
// of them: the VPC does not know the source.
func (t *tracer) egress(link string) {
	l := t.leg(t.p.Flow.Src, t.p.Flow.Dst, link, &t.p.Out)
	if !t.usable(l, link) || !t.fromSandbox(l) || !t.prerouting(l) {
		return
	}
	v := t.v.Node.Lookup(l.Query)
	t.p.lookups = append(t.p.lookups, lookup{l.Query, v})
	t.unjudged(v)
	switch {
	case v.Local:
		l.hop("node", "is the destination", "its own address "+l.Dst.String())
		return
	case !v.Found:
		l.hop("routing", "finds no route", "")
		t.fault(FaultMissingRoute, "the node has no route to %s", l.Dst)
		return
	case v.Refuses():
		l.hop("routing", "refuses", v.String())
		t.fault(FaultBlockedRoute, "%s, which refuses %s", v, l.Dst)
		return
	}
	t.decision(l, v)
	t.forwarding(l)
	out := v.Route.Link
	t.p.Egress = out
	if !t.usable(l, out) {
		return
	}
	i := slices.IndexFunc(t.v.Egress, func(e Egress) bool { return e.Pod == l.Src && e.Node.IsValid() })
	if i < 0 {
		l.hop(out, "sends it into the VPC", "")
		t.fault(FaultLostSNAT, "no table inet %s* translates %s, and the VPC drops it", egressTables, l.Src)
		return
	}
	e := t.v.Egress[i]
	t.p.Source = e.Node
	l.hop("snat", "translates the source to "+e.Node.String(), "table inet "+e.Table)
	l.hop(out, "sends it into the VPC", "")
	if !t.v.Node.HasAddress(e.Node) {
		t.fault(FaultMissingAddr, "the node does not have the address %s, so that no answer arrives", e.Node)
		return
	}
	t.checkOwner(v)
	t.egressBack(link, out, e)
}

// egressBack follows the answer to a pod with egress.
func (t *tracer) egressBack(link, in string, e Egress) {
	l := t.leg(t.p.Flow.Dst, e.Pod, in, &t.p.Back)
	l.hop(in, "receives the answer from the VPC", "")
	l.hop("snat", "translates the destination back to "+e.Pod.String(), "table inet "+e.Table)
	v := t.v.Node.Lookup(l.Query)
	t.p.lookups = append(t.p.lookups, lookup{l.Query, v})
	if !v.LeavesBy(link) {
		t.fault(FaultWrongRoute, "the answer should leave by %s: %s", link, v)
		return
	}
	t.decision(l, v)
	if t.reverse(l, link) {
		t.deliver(l, link)
	}
}
