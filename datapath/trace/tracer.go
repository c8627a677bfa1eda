// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// tracer follows one flow.
type tracer struct {
	v View
	p Path
}

// leg is one direction of a flow: a packet that comes in by the link in, or that the node
// sends if in is empty.
type leg struct {
	netstate.Query
	in   string
	hops *[]Hop
}

// end is where a leg ends. If pod or vpc is set, the packet has left by the link of that
// name to a pod or into the VPC; otherwise it has reached the node itself.
type end struct {
	reached  bool
	pod, vpc string
}

// leg returns the leg of a packet that comes in by a link and adds its hops to hops.
func (t *tracer) leg(src, dst netip.Addr, in string, hops *[]Hop) *leg {
	proto, _ := t.p.Flow.proto()
	l := &leg{Query: netstate.Query{Src: src, Dst: dst, IIF: in, Proto: proto}, in: in, hops: hops}
	if hops == &t.p.Out {
		l.DstPort = t.p.Flow.Port
	} else {
		l.SrcPort = t.p.Flow.Port
	}
	return l
}

func (l *leg) hop(where, what, why string) { *l.hops = append(*l.hops, Hop{where, what, why}) }

// enter sets the link by which the packet comes in.
func (l *leg) enter(link string) { l.in, l.IIF = link, link }

func (t *tracer) fault(name FaultName, format string, args ...any) {
	f := Fault{name, fmt.Sprintf(format, args...)}
	if !slices.Contains(t.p.Faults, f) {
		t.p.Faults = append(t.p.Faults, f)
	}
}

func (t *tracer) note(name NoteName, format string, args ...any) {
	n := Note{name, fmt.Sprintf(format, args...)}
	if !slices.Contains(t.p.Unchecked, n) {
		t.p.Unchecked = append(t.p.Unchecked, n)
	}
}

// notes adds notes that do not depend on the way of the packet.
func (t *tracer) notes() {
	otherFamily := "ip6"
	if t.p.Flow.Dst.Is6() {
		otherFamily = "ip"
	}
	var others []string
	for _, c := range t.v.Filters {
		if c.Family != otherFamily {
			others = append(others, c.String())
		}
	}
	if len(others) > 0 {
		t.note(NoteForeign, "whether chains of other programs let it pass: %s", strings.Join(others, ", "))
	}
	if t.v.Translation != nil {
		for _, odd := range t.v.Translation.Odd {
			t.note(NoteTranslation, "what %s does", odd)
		}
	}
}

// unjudged adds notes for rules that may decide instead.
func (t *tracer) unjudged(v netstate.Verdict) {
	for _, r := range v.Unjudged {
		t.note(NoteRule, "whether rule %q decides", r)
	}
}

// out follows the packet to where it goes.
func (t *tracer) out(l *leg) end {
	if l.in != "" && !t.fromPod(l) {
		return end{}
	}
	t.enforced()
	return t.forward(l)
}

// back follows the answer from where the packet has gone.
func (t *tracer) back(from end) {
	l := t.leg(t.p.Flow.Dst, t.p.Flow.Src, "", &t.p.Back)
	switch {
	case from.vpc != "":
		l.enter(from.vpc)
		l.hop(l.in, "receives the answer from the VPC", "")
		if t.p.Source != t.p.Flow.Src {
			l.hop("snat", "translates the destination back to "+l.Dst.String(), "")
		}
	case from.pod != "":
		l.enter(from.pod)
		if !t.fromPod(l) {
			return
		}
	}
	t.forward(l)
}

// fromPod follows a packet out of a pod, through the host side of the veth pair and our
// nftables table.
func (t *tracer) fromPod(l *leg) bool {
	if !t.usable(l, l.in) || !t.port(l.Src, l.in) || !t.fromSandbox(l) || !t.prerouting(l) {
		return false
	}
	t.snatMark(l)
	return true
}

// fromSandbox follows a packet through the sandbox to the host side of the veth pair.
func (t *tracer) fromSandbox(l *leg) bool {
	if !t.hasSandbox(l.Src) {
		l.hop(l.in, "receives it from the pod", "")
		return true
	}
	s := *t.v.Sandbox
	holder, ok := s.Link(s.Holder(l.Src))
	switch {
	case !ok && t.v.hostLinkOf(l.Src) != l.in:
		t.fault(FaultSpoofed, "neither the sandbox nor any pod has the address %s", l.Src)
		return false
	case !ok:
		t.fault(FaultMissingAddr, "the sandbox does not have the address %s", l.Src)
		return false
	case !holder.Up:
		t.fault(FaultLinkDown, "link %s of the sandbox is down", holder.Name)
		return false
	}
	v := s.Lookup(netstate.Query{Src: l.Src, Dst: l.Dst, Proto: l.Proto})
	t.unjudged(v)
	switch {
	case v.Local:
		l.hop("pod", "is the destination", "its own address "+l.Dst.String())
		return false
	case v.Refuses():
		l.hop("pod", "refuses", v.Route.String())
		t.fault(FaultBlockedRoute, "%s in the sandbox refuses %s", v, l.Dst)
		return false
	case !v.Found || v.Route.Link != holder.Name && holder.Kind != "ipvlan":
		l.hop("pod", "has no way out", v.String())
		t.noUplink(l, holder.Name, v)
		return false
	}
	l.hop("pod "+v.Route.Link, "sends it", v.Route.String())
	return t.toHost(l, s, v.Route)
}

// hasSandbox reports whether the View contains the sandbox of the pod that has the
// address, or should have it. If not, it adds a note.
func (t *tracer) hasSandbox(a netip.Addr) bool {
	other := t.p.Flow.Dst
	if a == other {
		other = t.p.Flow.Src
	}
	if s := t.v.Sandbox; s != nil && (s.HasAddress(a) || a == t.p.Flow.Src && !s.HasAddress(other)) {
		return true
	}
	t.note(NoteSandbox, "what is inside the pod with %s", a)
	return false
}

// noUplink adds the reason why a sandbox does not send by the link that has the source.
func (t *tracer) noUplink(l *leg, link string, v netstate.Verdict) {
	table := netstate.TableMain
	for _, r := range t.v.Sandbox.Rules {
		if r.From == netstate.HostPrefix(l.Src) && r.Table != netstate.TableLocal {
			table = r.Table
		}
	}
	way, ok := t.v.Sandbox.LongestMatch(table, l.Dst)
	switch {
	case ok && way.Link == link || v.Found && table == netstate.TableMain:
		t.fault(FaultMissingRule, "no rule of the sandbox sends packets from %s to a table that leads out by %s; decided by %q", l.Src, link, v.Rule)
	default:
		t.fault(FaultMissingRoute, "the sandbox has no route to %s by %s", l.Dst, link)
	}
}

// toHost checks that the sandbox sends to the MAC of the host side.
func (t *tracer) toHost(l *leg, s netstate.State, way netstate.Route) bool {
	host, _ := t.v.Node.Link(l.in)
	if !way.Via.IsValid() {
		t.fault(FaultWrongRoute, "the sandbox's route %q has no gateway", way)
		return false
	}
	n, ok := s.Neighbor(way.Link, way.Via)
	switch {
	case !ok:
		t.fault(FaultNoNeighbor, "the sandbox has no permanent entry for its gateway %s, which no interface answers for", way.Via)
		return false
	case n.MAC != host.MAC:
		t.fault(FaultStaleNeighbor, "the sandbox sends to MAC %s, but %s has %s", n.MAC, host.Name, host.MAC)
		return false
	}
	l.hop(l.in, "receives it", n.String())
	return true
}

// usable reports whether the link exists and is up.
func (t *tracer) usable(l *leg, name string) bool {
	link, ok := t.v.Node.Link(name)
	switch {
	case !ok:
		t.fault(FaultNoLink, "link %s does not exist", name)
	case !link.Up:
		t.fault(FaultLinkDown, "link %s is down", name)
	case l.Dst.Is6() && t.v.Node.Sysctl(netstate.LinkSysctl("ipv6", name, "disable_ipv6", "").Key) == "1":
		t.fault(FaultIPv6Off, "IPv6 is switched off on link %s", name)
		return false
	}
	return ok && link.Up
}

// snatMark applies the mark of package snat.
func (t *tracer) snatMark(l *leg) {
	tr := t.v.Translation
	if l.hops != &t.p.Out || !tr.outside(l.Dst) || tr.Mark == 0 || !strings.HasPrefix(l.in, tr.HostLinkPrefix) || t.v.Node.HasAddress(l.Dst) {
		return
	}
	l.Mark |= tr.Mark
	l.hop("snat mark", fmt.Sprintf("sets the mark %#x: leave by the primary ENI", tr.Mark), fmt.Sprintf("%s is outside %s", l.Dst, prefixesText(tr.Inside)))
}

// forward follows a packet from the routing decision to where it goes.
func (t *tracer) forward(l *leg) end {
	v := t.v.Node.Lookup(l.Query)
	t.p.lookups = append(t.p.lookups, lookup{l.Query, v})
	t.unjudged(v)
	pod := t.podFor(l)
	switch {
	case v.Local && pod != "":
		t.noWayTo(l.Dst, pod, l.in, v)
		return end{}
	case v.Local:
		if !t.reverse(l, "") {
			return end{}
		}
		l.hop("node", "is the destination", "its own address "+l.Dst.String())
		return end{reached: true}
	case !v.Found && pod == "":
		l.hop("routing", "finds no route", "")
		t.noWayOut(l, v)
		return end{}
	case isHeld(v) && pod != "":
		t.noWayTo(l.Dst, pod, l.in, v)
		return end{}
	case v.Refuses():
		l.hop("routing", "refuses", v.String())
		t.refused(l, v)
		return end{}
	}
	t.decision(l, v)
	switch {
	case pod != "" && !v.LeavesBy(pod):
		t.noWayTo(l.Dst, pod, l.in, v)
		return end{}
	case pod == "" && !isStrictLink(l.in) && t.v.Node.HasAddress(l.Dst):
		t.noWayHome(l, v)
		return end{}
	case v.Route.Link == "":
		t.note(NoteRoute, "which next hop of route %q the kernel selects; the packet is not followed further", v.Route)
		return end{}
	}
	t.forwarding(l)
	t.misrouted(l, v)
	if !t.reverse(l, v.Route.Link) {
		return end{}
	}
	if !t.policies(l) {
		return end{}
	}
	t.accelerated(l, v.Route.Link)
	if l.hops == &t.p.Out {
		t.p.Egress, t.p.Mark = v.Route.Link, l.Mark
	}
	if t.v.isPodLink(v.Route.Link) {
		return t.deliver(l, v.Route.Link)
	}
	return t.leave(l, v)
}

// decision adds the hops of a routing decision.
func (t *tracer) decision(l *leg, v netstate.Verdict) {
	if !v.Found {
		l.hop("routing", "finds no route", "")
		return
	}
	l.hop("rule "+fmt.Sprint(v.Rule.Priority), "looks into table "+netstate.TableName(v.Rule.Table), v.Rule.String())
	link := v.Route.Link
	if link == "" {
		link = "one of several links"
	}
	l.hop("table "+netstate.TableName(v.Route.Table), "sends it to "+link, v.Route.String())
	t.foreign(v.Rule)
}

// podFor returns the host link of the destination if it is a pod of this node and the
// packet should not pass through the VPC. Packets from and to a pod on a branch ENI under
// Strict do pass through the VPC.
func (t *tracer) podFor(l *leg) string {
	link := t.v.hostLinkOf(l.Dst)
	if isStrictLink(l.in) || isStrictLink(link) && !isVLANLink(l.in) {
		return ""
	}
	return link
}

// foreign adds a fault if the rule that decided belongs neither to us nor to the kernel.
func (t *tracer) foreign(r netstate.Rule) {
	if r.Priority == 0 || r.Priority >= 32766 && r.Protocol == claims.RuleProtocol || claims.OwnedRule(r) {
		return
	}
	t.fault(FaultForeignRule, "another program's rule %q decides", r)
}

// prefixesText returns the prefixes as a list separated by commas.
func prefixesText(p []netip.Prefix) string {
	var s []string
	for _, x := range p {
		s = append(s, x.String())
	}
	return strings.Join(s, ", ")
}
