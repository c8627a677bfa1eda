// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// due is what should decide about a packet: a rule, and the link that its table
// leads to.
type due struct {
	rule Rule
	link string
}

// leave follows the packet into the VPC, and checks that the ENI by which it
// leaves owns its source.
func (t *tracer) leave(l *leg, v verdict) end {
	egress := v.route.Link
	if !t.usable(l, egress) || !t.vlan(l, egress) {
		return end{}
	}
	if l.hops != &t.p.Out {
		l.hop(egress, "sends it into the VPC", "")
		return end{}
	}
	tr := t.v.Translation
	if l.in != "" && tr.outside(l.dst) && tr.To.IsValid() && tr.Link == egress {
		t.p.Source = tr.To
		l.hop("snat", "translates the source to "+tr.To.String(), "it leaves by "+egress)
	}
	l.hop(egress, "sends it into the VPC", "")
	if t.shallTranslate(l) && t.p.Source == l.src {
		t.fault(FaultLostSNAT, "%s leaves the node by %s for %s untranslated, and the internet gateway drops it", l.src, egress, l.dst)
		return end{reached: true, vpc: egress}
	}
	t.checkOwner(v)
	if l.in != "" && isStrictLink(l.in) && !t.v.External && private(l.src) && public(l.dst) {
		t.note(NoteUntouched, "whether something beyond the node translates %s: packets of pods under strict enforcement leave as they are", l.src)
	}
	return end{reached: true, vpc: egress}
}

// misrouted says why a packet leaves the node by another link than it should.
func (t *tracer) misrouted(l *leg, v verdict) {
	if l.hops != &t.p.Out || t.v.isPodLink(v.route.Link) {
		return
	}
	if d, ok := t.due(l); ok && d.link != "" && d.link != v.route.Link {
		t.explain(l, d, v)
	}
}

// checkOwner checks that the ENI by which the packet leaves owns its source.
func (t *tracer) checkOwner(v verdict) {
	src, egress := t.p.Source, v.route.Link
	e, sure, ok := t.v.owner(src)
	switch {
	case !ok && t.v.Desired == nil:
		t.note(NoteOwner, "which ENI owns %s: without the agent's word a wrong ENI is not seen", src)
	case !ok:
		t.note(NoteOwner, "which ENI owns %s: none that is known", src)
	case !sure:
		t.note(NoteOwner, "whether %s owns %s, as the node's own tables say: the agent was not asked", e.Link, src)
	case e.Link == "":
		t.fault(FaultNoLink, "%s, which owns %s, has no link on this node: none has the MAC %s", e.ID, src, e.MAC)
	}
	if ok && e.Link != egress {
		t.fault(FaultWrongENI, "it leaves by %s, decided by %q, but %s owns %s: the VPC drops it", egress, v.rule, ownerName(e), src)
	}
}

func ownerName(e ENI) string {
	if e.Link == "" {
		return e.ID
	}
	return e.Link
}

// shallTranslate reports whether the node shall translate a pod's source: by the
// rules that are there or, where none are, because only a public address gets an
// answer.
func (t *tracer) shallTranslate(l *leg) bool {
	if l.in == "" || l.src.Is6() || isStrictLink(l.in) {
		return false
	}
	if tr := t.v.Translation; tr != nil && (tr.To.IsValid() || tr.Mark != 0) {
		return tr.outside(l.dst)
	}
	return !t.v.External && private(l.src) && public(l.dst)
}

// carriers is for carriers' NAT (RFC 6598); many a VPC gives it to pods.
var carriers = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)

func private(a netip.Addr) bool { return a.Is4() && (a.IsPrivate() || carriers.Contains(a)) }

func public(a netip.Addr) bool { return a.IsGlobalUnicast() && !private(a) }

// due returns what should decide about a packet that leaves the node.
func (t *tracer) due(l *leg) (due, bool) {
	r := Rule{IPv6: l.dst.Is6(), Protocol: ruleProtocol}
	if isStrictLink(l.in) {
		vlan, ok := t.vlanOf(l.src, l.in)
		r.Priority, r.IIF, r.From, r.Table = PriorityBranch, l.in, hostPrefix(l.src), branchTables+vlan
		return due{r, (&Branch{VLAN: vlan}).Link()}, ok
	}
	if tr := t.v.Translation; tr != nil && t.shallTranslate(l) && (tr.Link != "" || l.mark&MarkPrimary != 0) {
		r.Priority, r.Mark, r.Mask, r.Table = PriorityPrimaryMark, MarkPrimary, MarkPrimary, TableMain
		return due{r, tr.Link}, true
	}
	for _, p := range t.v.servicePrefixes() {
		if p.Contains(l.dst) && l.in != "" {
			r.Priority, r.To, r.Table = PriorityService, p.Masked(), TableMain
			return due{r, t.v.primaryLink()}, true
		}
	}
	return t.dueFrom(l, r)
}

// servicePrefixes are those that are desired or, where that is not known, those
// that the node has rules for.
func (v View) servicePrefixes() []netip.Prefix {
	if v.Desired != nil {
		return v.Desired.Node.ServicePrefixes
	}
	var found []netip.Prefix
	for _, r := range v.Node.Rules {
		if r.Priority == PriorityService && ownedRule(r) {
			found = append(found, r.To)
		}
	}
	return found
}

// dueFrom returns what should decide about a packet because of its source.
func (t *tracer) dueFrom(l *leg, r Rule) (due, bool) {
	if p, ok := t.v.podWith(l.src); ok && p.Mode.Branch != nil {
		r.Priority, r.From, r.Table = PriorityFromPod, hostPrefix(l.src), p.Mode.Branch.Table()
		return due{r, p.Mode.Branch.Link()}, true
	}
	e, _, ok := t.v.owner(l.src)
	if !ok {
		return due{}, false
	}
	r.Table = e.Table()
	switch {
	case e.Primary():
		r.Priority = 32766
	case l.in == "":
		r.Priority, r.From = PriorityFromENI, hostPrefix(l.src)
	case t.v.layout() == Flat:
		r.Priority, r.Mark, r.Mask = PriorityFromPod, uint32(e.number()), MarkENI
	default:
		r.Priority, r.From = PriorityFromPod, hostPrefix(l.src)
	}
	return due{r, e.Link}, true
}

// primaryLink returns the link of the primary ENI, if it is known.
func (v View) primaryLink() string {
	if v.Desired == nil {
		return ""
	}
	n, _ := v.Desired.Node.resolve(v.Node.Links)
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
		if r.Dst == hostPrefix(a) && r.Link == link {
			table = r.Table
		}
	}
	r := Rule{Priority: PriorityToPod, IPv6: a.Is6(), Table: TablePods, Protocol: ruleProtocol}
	p, known := t.v.podWith(a)
	perPod := t.v.layout() == PerPod || known && p.Mode.Branch != nil
	switch {
	case isStrictLink(link):
		vlan, _ := t.vlanOf(a, link)
		r.Priority, r.IIF, r.Table = PriorityBranch, in, branchTables+vlan
	case table == TableMain || table == 0 && perPod:
		r.To, r.Table = hostPrefix(a), TableMain
	}
	return due{r, link}
}

// explain names why something else than d decided about a packet.
func (t *tracer) explain(l *leg, d due, v verdict) {
	if d.rule.Mask != 0 && l.mark&d.rule.Mask != d.rule.Mark {
		t.noMark(l, d)
		return
	}
	rule, ok := t.v.Node.ruleLike(d.rule)
	before := ok && v.found && v.rule != rule && v.rule.Priority <= rule.Priority
	route, leads := t.v.Node.longest(d.rule.Table, l.dst)
	switch {
	case !ok && v.found:
		t.fault(FaultMissingRule, "rule %q is not there; %q decides instead", d.rule, v.rule)
	case !ok:
		t.fault(FaultMissingRule, "rule %q is not there", d.rule)
	case rule.Table != d.rule.Table:
		t.fault(FaultWrongTable, "rule %q should look into table %s", rule, tableName(d.rule.Table))
	case before && v.rule.Priority == PriorityToPod:
		t.fault(FaultWrongRoute, "route %q in the table of pods leads to no pod", v.route)
	case before && ownedRule(v.rule):
		t.fault(FaultWrongTable, "rule %q decides before %q, and should not be there", v.rule, rule)
	case before:
		t.foreign(v.rule)
	case !leads && t.isDown(d.link):
		t.fault(FaultLinkDown, "link %s is down, and its routes are gone", d.link)
	case !leads:
		t.fault(FaultMissingRoute, "table %s has no route to %s", tableName(d.rule.Table), l.dst)
	case route.Link != d.link:
		t.fault(FaultWrongRoute, "route %q leads out by %s, not by %s", route, route.Link, d.link)
	}
}

// noMark names why a packet does not have the mark that d goes by.
func (t *tracer) noMark(l *leg, d due) {
	switch {
	case d.rule.Priority == PriorityPrimaryMark:
		t.fault(FaultMissingMark, "no rule of package snat's table gives packets to %s the mark %#x", l.dst, d.rule.Mark)
	case t.p.Has(FaultNoFilter): // which is why
	default:
		t.fault(FaultMissingMark, "the map of sources should give %s the mark %#x, not %#x", l.src, d.rule.Mark, l.mark&d.rule.Mask)
	}
}

func (t *tracer) isDown(link string) bool {
	l, ok := t.v.Node.link(link)
	return ok && !l.Up
}

// ruleLike returns the rule that selects the same packets as r at the same
// priority, if possible with the same table.
func (s State) ruleLike(r Rule) (found Rule, ok bool) {
	for _, have := range s.Rules {
		alike := have
		alike.Table, alike.Protocol = r.Table, r.Protocol
		if alike == r && (!ok || have.Table == r.Table) {
			found, ok = have, true
		}
	}
	return found, ok
}

// refused says why a rule or a route refuses a packet.
func (t *tracer) refused(l *leg, v verdict) {
	switch {
	case v.held():
		t.fault(FaultNoPod, "%s is an address of this node that no pod has: route %q answers that it is unreachable", l.dst, v.route)
	case v.rule.Priority != PriorityForged || !ownedRule(v.rule):
		t.fault(FaultBlockedRoute, "%s, which refuses %s", v, l.dst)
	case t.v.hostLinkOf(l.src) == l.in:
		if d, ok := t.due(l); ok {
			t.explain(l, d, v)
		}
	default:
		t.fault(FaultSpoofed, "%s is not the address of the pod behind %s: rule %q drops it", l.src, l.in, v.rule)
	}
}

// noWayOut says why a packet finds no route at all.
func (t *tracer) noWayOut(l *leg, v verdict) {
	before := len(t.p.Faults)
	if d, ok := t.due(l); ok {
		t.explain(l, d, v)
	}
	if len(t.p.Faults) == before {
		t.fault(FaultMissingRoute, "no rule and table has a route from %s to %s with mark %#x", l.src, l.dst, l.mark)
	}
}

// noWayHome says why a packet for the node's own address does not reach it.
func (t *tracer) noWayHome(l *leg, v verdict) {
	for _, r := range t.v.Node.rulesFor(l.dst.Is6()) {
		if r.Table == tableLocal && !r.From.IsValid() {
			t.fault(FaultForeignRule, "rule %q comes before the lookup of %s, which is the node's own", v.rule, l.dst)
			return
		}
	}
	t.fault(FaultMissingRule, "no rule looks into table local, so that %s is not the node's own", l.dst)
}

// noWayTo says why the node does not send packets for an address to the pod
// behind a link, or does not take it for that pod's. In is the link that the packet came by.
func (t *tracer) noWayTo(a netip.Addr, link, in string, v verdict) {
	_, neighbour := t.v.Node.neighbor(link, a)
	_, wanted := t.v.podWith(a)
	routed := false
	for _, r := range t.v.Node.Routes {
		routed = routed || r.Dst == hostPrefix(a) && r.Link == link
	}
	switch {
	case v.local && (routed || neighbour || wanted):
		t.fault(FaultAddrOnNode, "%s is a pod's address, and the node takes it for its own: link %s has it", a, t.v.Node.holder(a))
	case routed:
		d := t.dueTo(a, link, in)
		l := &leg{query: query{dst: a}}
		t.explain(l, d, v)
	case neighbour || wanted && t.v.hostLinkOf(a) == link:
		t.fault(FaultMissingRoute, "no route leads to pod %s by %s", a, link)
	default:
		t.fault(FaultSpoofed, "%s is not the address of the pod behind %s: %s", a, link, v)
	}
}
