// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// due is what should decide about a packet: a rule, and the link that the rule's
// table leads to.
type due struct {
	rule netstate.Rule
	link string
}

// leave follows the packet into the VPC and checks that the ENI by which it leaves owns
// its source.
func (t *tracer) leave(l *leg, v netstate.Verdict) end {
	egress := v.Route.Link
	if !t.usable(l, egress) || !t.vlan(l, egress) {
		return end{}
	}
	if l.hops != &t.p.Out {
		l.hop(egress, "sends it into the VPC", "")
		return end{}
	}
	tr := t.v.Translation
	if l.in != "" && tr.outside(l.Dst) && tr.To.IsValid() && tr.Link == egress {
		t.p.Source = tr.To
		l.hop("snat", "translates the source to "+tr.To.String(), "it leaves by "+egress)
	}
	l.hop(egress, "sends it into the VPC", "")
	if t.shallTranslate(l) && t.p.Source == l.Src {
		t.fault(FaultLostSNAT, "%s leaves the node by %s for %s untranslated, and the internet gateway drops it", l.Src, egress, l.Dst)
		return end{reached: true, vpc: egress}
	}
	t.checkOwner(v)
	if l.in != "" && isStrictLink(l.in) && !t.v.External && private(l.Src) && public(l.Dst) {
		t.note(NoteUntouched, "whether something beyond the node translates %s: packets of pods under strict enforcement leave as they are", l.Src)
	}
	return end{reached: true, vpc: egress}
}

// misrouted adds the reason why a packet leaves the node by another link than it should.
func (t *tracer) misrouted(l *leg, v netstate.Verdict) {
	if l.hops != &t.p.Out || t.v.isPodLink(v.Route.Link) {
		return
	}
	if d, ok := t.due(l); ok && d.link != "" && d.link != v.Route.Link {
		t.explain(l, d, v)
	}
}

// checkOwner checks that the ENI by which the packet leaves owns its source.
func (t *tracer) checkOwner(v netstate.Verdict) {
	src, egress := t.p.Source, v.Route.Link
	e, sure, ok := t.v.owner(src)
	switch {
	case !ok && t.v.Desired == nil:
		t.note(NoteOwner, "which ENI owns %s: only the agent knows, and it was not asked", src)
	case !ok:
		t.note(NoteOwner, "which ENI owns %s: no known ENI does", src)
	case !sure:
		t.note(NoteOwner, "whether %s owns %s, as the tables of the node say: the agent was not asked", e.Link, src)
	case e.Link == "":
		t.fault(FaultNoLink, "%s, which owns %s, has no link on this node: none has the MAC %s", e.ID, src, e.MAC)
	}
	if ok && e.Link != egress {
		t.fault(FaultWrongENI, "it leaves by %s, decided by %q, but %s owns %s: the VPC drops it", egress, v.Rule, ownerName(e), src)
	}
}

// ownerName returns the name of the ENI's link, or its ID if it has none.
func ownerName(e datapath.ENI) string {
	if e.Link == "" {
		return e.ID
	}
	return e.Link
}

// shallTranslate reports whether the node should translate the source of a pod's packet.
// The rules of package snat decide. Without such rules, packets to public addresses need
// translation, because only a public source receives an answer.
func (t *tracer) shallTranslate(l *leg) bool {
	if l.in == "" || l.Src.Is6() || isStrictLink(l.in) {
		return false
	}
	if tr := t.v.Translation; tr != nil && (tr.To.IsValid() || tr.Mark != 0) {
		return tr.outside(l.Dst)
	}
	return !t.v.External && private(l.Src) && public(l.Dst)
}

// sharedSpace is the address space for carrier-grade NAT (RFC 6598). Many VPCs use it for
// pods.
var sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)

func private(a netip.Addr) bool { return a.Is4() && (a.IsPrivate() || sharedSpace.Contains(a)) }

func public(a netip.Addr) bool { return a.IsGlobalUnicast() && !private(a) }

// due returns what should decide about a packet that leaves the node.
func (t *tracer) due(l *leg) (due, bool) {
	r := netstate.Rule{IPv6: l.Dst.Is6(), Protocol: claims.RuleProtocol}
	if isStrictLink(l.in) {
		vlan, ok := t.vlanOf(l.Src, l.in)
		r.Priority, r.IIF, r.From, r.Table = claims.PriorityBranch, l.in, netstate.HostPrefix(l.Src), claims.BranchTableOffset+vlan
		return due{r, (&datapath.Branch{VLAN: vlan}).Link()}, ok
	}
	if tr := t.v.Translation; tr != nil && t.shallTranslate(l) && (tr.Link != "" || l.Mark&claims.MarkPrimary != 0) {
		r.Priority, r.Mark, r.Mask, r.Table = claims.PriorityPrimaryMark, claims.MarkPrimary, claims.MarkPrimary, netstate.TableMain
		return due{r, tr.Link}, true
	}
	for _, p := range t.v.servicePrefixes() {
		if p.Contains(l.Dst) && l.in != "" {
			r.Priority, r.To, r.Table = claims.PriorityService, p.Masked(), netstate.TableMain
			return due{r, t.v.primaryLink()}, true
		}
	}
	return t.dueFrom(l, r)
}

// servicePrefixes returns the prefixes of the wanted node or, if it is unknown, those for
// which the node has rules.
func (v View) servicePrefixes() []netip.Prefix {
	if v.Desired != nil {
		return v.Desired.Node.ServicePrefixes
	}
	var found []netip.Prefix
	for _, r := range v.Node.Rules {
		if r.Priority == claims.PriorityService && claims.OwnedRule(r) {
			found = append(found, r.To)
		}
	}
	return found
}

// dueFrom returns what should decide about a packet by its source.
func (t *tracer) dueFrom(l *leg, r netstate.Rule) (due, bool) {
	if p, ok := t.v.podWith(l.Src); ok && p.Mode.Branch != nil {
		r.Priority, r.From, r.Table = claims.PriorityFromPod, netstate.HostPrefix(l.Src), p.Mode.Branch.Table()
		return due{r, p.Mode.Branch.Link()}, true
	}
	e, _, ok := t.v.owner(l.Src)
	if !ok {
		return due{}, false
	}
	r.Table = e.Table()
	switch {
	case e.Primary():
		r.Priority = 32766
	case l.in == "":
		r.Priority, r.From = claims.PriorityFromENI, netstate.HostPrefix(l.Src)
	case t.v.layout() == datapath.Flat:
		r.Priority, r.Mark, r.Mask = claims.PriorityFromPod, uint32(e.MarkNumber()), claims.MarkENI
	default:
		r.Priority, r.From = claims.PriorityFromPod, netstate.HostPrefix(l.Src)
	}
	return due{r, e.Link}, true
}

// primaryLink returns the link of the primary ENI, empty if it is unknown.
func (v View) primaryLink() string {
	if v.Desired == nil {
		return ""
	}
	n, _ := v.Desired.Node.Resolve(v.Node.Links)
	for _, e := range n.ENIs {
		if e.Primary() {
			return e.Link
		}
	}
	return ""
}

// dueTo returns what should decide about a packet to a pod of this node.
func (t *tracer) dueTo(a netip.Addr, link, in string) due {
	table := 0
	for _, r := range t.v.Node.Routes {
		if r.Dst == netstate.HostPrefix(a) && r.Link == link {
			table = r.Table
		}
	}
	r := netstate.Rule{Priority: claims.PriorityToPod, IPv6: a.Is6(), Table: claims.TablePods, Protocol: claims.RuleProtocol}
	p, known := t.v.podWith(a)
	perPod := t.v.layout() == datapath.PerPod || known && p.Mode.Branch != nil
	switch {
	case isStrictLink(link):
		vlan, _ := t.vlanOf(a, link)
		r.Priority, r.IIF, r.Table = claims.PriorityBranch, in, claims.BranchTableOffset+vlan
	case table == netstate.TableMain || table == 0 && perPod:
		r.To, r.Table = netstate.HostPrefix(a), netstate.TableMain
	}
	return due{r, link}
}

// explain adds the reason why something else than d decided about a packet.
func (t *tracer) explain(l *leg, d due, v netstate.Verdict) {
	if d.rule.Mask != 0 && l.Mark&d.rule.Mask != d.rule.Mark {
		t.noMark(l, d)
		return
	}
	rule, ok := ruleLike(t.v.Node, d.rule)
	before := ok && v.Found && v.Rule != rule && v.Rule.Priority <= rule.Priority
	route, leads := t.v.Node.LongestMatch(d.rule.Table, l.Dst)
	switch {
	case !ok && v.Found:
		t.fault(FaultMissingRule, "rule %q does not exist; %q decides instead", d.rule, v.Rule)
	case !ok:
		t.fault(FaultMissingRule, "rule %q does not exist", d.rule)
	case rule.Table != d.rule.Table:
		t.fault(FaultWrongTable, "rule %q should look into table %s", rule, netstate.TableName(d.rule.Table))
	case before && v.Rule.Priority == claims.PriorityToPod:
		t.fault(FaultWrongRoute, "route %q in the table of pods leads to no pod", v.Route)
	case before && claims.OwnedRule(v.Rule):
		t.fault(FaultWrongTable, "rule %q decides before %q, and should not be there", v.Rule, rule)
	case before:
		t.foreign(v.Rule)
	case !leads && t.isDown(d.link):
		t.fault(FaultLinkDown, "link %s is down, and the kernel has deleted its routes", d.link)
	case !leads:
		t.fault(FaultMissingRoute, "table %s has no route to %s", netstate.TableName(d.rule.Table), l.Dst)
	case route.Link != d.link:
		t.fault(FaultWrongRoute, "route %q leads out by %s, not by %s", route, route.Link, d.link)
	}
}

// noMark adds the reason why a packet does not have the mark that the rule of d matches.
func (t *tracer) noMark(l *leg, d due) {
	switch {
	case d.rule.Priority == claims.PriorityPrimaryMark:
		t.fault(FaultMissingMark, "no rule of package snat's table gives packets to %s the mark %#x", l.Dst, d.rule.Mark)
	case t.p.Has(FaultNoFilter): // the missing filter is the reason
	default:
		t.fault(FaultMissingMark, "the map of sources should give %s the mark %#x, not %#x", l.Src, d.rule.Mark, l.Mark&d.rule.Mask)
	}
}

func (t *tracer) isDown(link string) bool {
	l, ok := t.v.Node.Link(link)
	return ok && !l.Up
}

// ruleLike returns the rule that matches the same packets as r at the same priority,
// preferably with the same table.
func ruleLike(s netstate.State, r netstate.Rule) (found netstate.Rule, ok bool) {
	for _, have := range s.Rules {
		alike := have
		alike.Table, alike.Protocol = r.Table, r.Protocol
		if alike == r && (!ok || have.Table == r.Table) {
			found, ok = have, true
		}
	}
	return found, ok
}

// refused adds the reason why a rule or a route refuses a packet.
func (t *tracer) refused(l *leg, v netstate.Verdict) {
	switch {
	case isHeld(v):
		t.fault(FaultNoPod, "%s is an address of this node that no pod has: route %q answers that it is unreachable", l.Dst, v.Route)
	case v.Rule.Priority != claims.PriorityForged || !claims.OwnedRule(v.Rule):
		t.fault(FaultBlockedRoute, "%s, which refuses %s", v, l.Dst)
	case t.v.hostLinkOf(l.Src) == l.in:
		if d, ok := t.due(l); ok {
			t.explain(l, d, v)
		}
	default:
		t.fault(FaultSpoofed, "%s is not the address of the pod behind %s: rule %q drops it", l.Src, l.in, v.Rule)
	}
}

// noWayOut adds the reason why no route is found for a packet.
func (t *tracer) noWayOut(l *leg, v netstate.Verdict) {
	before := len(t.p.Faults)
	if d, ok := t.due(l); ok {
		t.explain(l, d, v)
	}
	if len(t.p.Faults) == before {
		t.fault(FaultMissingRoute, "no rule and table has a route from %s to %s with mark %#x", l.Src, l.Dst, l.Mark)
	}
}

// noWayHome adds the reason why a packet to the node's own address does not reach it.
func (t *tracer) noWayHome(l *leg, v netstate.Verdict) {
	for _, r := range t.v.Node.RulesFor(netstate.FamilyOf(l.Dst)) {
		if r.Table == netstate.TableLocal && !r.From.IsValid() {
			t.fault(FaultForeignRule, "rule %q comes before the lookup of %s, an address of the node itself", v.Rule, l.Dst)
			return
		}
	}
	t.fault(FaultMissingRule, "no rule looks into table local, so the node does not accept packets to its address %s", l.Dst)
}

// noWayTo adds the reason why the node does not send packets for an address to the pod
// behind a link. in is the link by which the packet came in.
func (t *tracer) noWayTo(a netip.Addr, link, in string, v netstate.Verdict) {
	_, neighbour := t.v.Node.Neighbor(link, a)
	_, wanted := t.v.podWith(a)
	routed := false
	for _, r := range t.v.Node.Routes {
		routed = routed || r.Dst == netstate.HostPrefix(a) && r.Link == link
	}
	switch {
	case v.Local && (routed || neighbour || wanted):
		t.fault(FaultAddrOnNode, "%s is the address of a pod, but the node accepts packets for it itself: link %s has it", a, t.v.Node.Holder(a))
	case routed:
		d := t.dueTo(a, link, in)
		l := &leg{Query: netstate.Query{Dst: a}}
		t.explain(l, d, v)
	case neighbour || wanted && t.v.hostLinkOf(a) == link:
		t.fault(FaultMissingRoute, "no route leads to pod %s by %s", a, link)
	default:
		t.fault(FaultSpoofed, "%s is not the address of the pod behind %s: %s", a, link, v)
	}
}

// isHeld reports whether the node refuses a packet because no pod has the address.
func isHeld(v netstate.Verdict) bool { return v.Refuses() && v.Route.Table == claims.TableHeld }
