// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"strings"
)

// tracer follows one flow. Its methods return false where the packet ends.
type tracer struct {
	v View
	p Path
}

func (t *tracer) hop(where, what, why string) {
	t.p.Out = append(t.p.Out, Hop{where, what, why})
}

func (t *tracer) hopBack(where, what, why string) {
	t.p.Back = append(t.p.Back, Hop{where, what, why})
}

func (t *tracer) fault(name FaultName, format string, args ...any) {
	t.p.Faults = append(t.p.Faults, Fault{name, fmt.Sprintf(format, args...)})
}

// out follows the packet until it leaves the node or reaches a pod or the node.
func (t *tracer) out() bool {
	f := t.p.Flow
	if f.HostLink != "" && !(t.fromSandbox() && t.usable(f.HostLink) && t.prerouting()) {
		return false
	}
	q := query{src: f.Src, dst: f.Dst, mark: t.p.Mark, iif: f.HostLink}
	v := t.v.Node.lookup(q)
	switch {
	case v.local:
		t.hop("node", "is the destination", "its own address "+f.Dst.String())
		return true
	case !v.found:
		t.hop("routing", "finds no route", "")
		t.fault(FaultMissingRoute, "no rule and table has a route from %s to %s with mark %#x", f.Src, f.Dst, q.mark)
		return false
	case v.route.Type != "":
		t.hop("routing", "refuses", v.route.String())
		t.fault(FaultBlockedRoute, "route %q refuses %s", v.route, f.Dst)
		return false
	}
	t.hop("rule "+fmt.Sprint(v.rule.Priority), "looks into table "+tableName(v.rule.Table), v.rule.String())
	t.hop("table "+tableName(v.route.Table), "sends it to "+v.route.Link, v.route.String())
	t.foreign(v.rule)
	t.p.Egress = v.route.Link
	if f.HostLink != "" {
		t.forwarding(f.Dst.Is6())
	}
	if t.v.isPodLink(v.route.Link) {
		return t.deliver(t.hop, f.Dst, v.route.Link)
	}
	return t.usable(v.route.Link) && t.leave(v)
}

// fromSandbox follows the packet to the node's end of the veth pair.
func (t *tracer) fromSandbox() bool {
	if t.v.Sandbox == nil {
		t.hop(t.p.Flow.HostLink, "receives it from the pod", "")
		return true
	}
	s, f := *t.v.Sandbox, t.p.Flow
	v := s.lookup(query{src: f.Src, dst: f.Dst})
	if !v.found || v.local || v.route.Type != "" {
		t.hop("pod", "has no way out", "")
		t.fault(FaultMissingRoute, "the sandbox has no route to %s", f.Dst)
		return false
	}
	t.hop("pod "+v.route.Link, "sends it", v.route.String())
	if !s.hasAddress(f.Src) {
		t.fault(FaultSpoofed, "the sandbox does not have the address %s", f.Src)
	}
	host, ok := t.v.Node.link(f.HostLink)
	if !v.route.Via.IsValid() || !ok {
		return ok
	}
	n, ok := s.neighbor(v.route.Link, v.route.Via)
	switch {
	case !ok:
		t.fault(FaultNoNeighbor, "the sandbox has no permanent entry for its gateway %s, which nobody answers for", v.route.Via)
		return false
	case n.MAC != host.MAC:
		t.fault(FaultStaleNeighbor, "the sandbox sends to MAC %s, but %s has %s", n.MAC, host.Name, host.MAC)
		return false
	}
	t.hop(f.HostLink, "receives it", n.String())
	return true
}

// usable reports whether a link is there and up.
func (t *tracer) usable(name string) bool {
	l, ok := t.v.Node.link(name)
	switch {
	case !ok:
		t.fault(FaultNoLink, "link %s does not exist", name)
	case !l.Up:
		t.fault(FaultLinkDown, "link %s is down", name)
	}
	return ok && l.Up
}

// prerouting goes through our nftables table and package snat's mark.
func (t *tracer) prerouting() bool {
	f, s := t.p.Flow, t.v.Node
	if !t.v.isPodLink(f.HostLink) {
		return true // a branch ENI's, which no rule is about
	}
	if s.Filter.empty() || !hasChain(s.Filter, "prerouting") || !hasChain(s.Filter, "from-pod") {
		t.fault(FaultNoFilter, "the nftables table inet %s or a chain of it is missing", FilterTable)
	}
	for _, rule := range fromPodRules(s.Filter) {
		if !t.apply(rule) {
			return false
		}
	}
	if t.v.Translation.applies(f.Dst) {
		t.p.Mark |= MarkPrimary
		t.hop("snat mark", fmt.Sprintf("sets the mark %#x: leave by the primary ENI", MarkPrimary), fmt.Sprintf("%s is outside %s", f.Dst, prefixesText(t.v.Translation.Inside)))
	}
	return true
}

func hasChain(f Filter, name string) bool {
	for _, c := range f.Chains {
		if c.Name == name && len(c.Rules) > 0 {
			return true
		}
	}
	return false
}

func fromPodRules(f Filter) []string {
	for _, c := range f.Chains {
		if c.Name == "from-pod" {
			return c.Rules
		}
	}
	return nil
}

// apply carries out one rule of our table for the packet.
func (t *tracer) apply(rule string) bool {
	f := t.p.Flow
	switch {
	case strings.HasPrefix(rule, "fib saddr . iif oif missing"):
		v := t.v.Node.lookup(query{src: f.Dst, dst: f.Src})
		if v.route.Link != f.HostLink {
			t.hop("nft from-pod", "drops it", rule)
			t.noWayBack(v)
			return false
		}
		t.hop("nft from-pod", "accepts the source", "the way back is "+v.route.String())
	case strings.HasSuffix(rule, "daddr "+f.Dst.String()+" reject"):
		t.hop("nft from-pod", "refuses it", rule)
		t.fault(FaultRefused, "pods may not use %s here", f.Dst)
		return false
	case strings.Contains(rule, "vmap") && strings.HasPrefix(rule, ipWord(f.Src)+" "):
		t.mark(rule)
	}
	return true
}

// noWayBack says why the node does not take the source for the pod's own.
func (t *tracer) noWayBack(v verdict) {
	f := t.p.Flow
	_, known := t.v.Node.neighbor(f.HostLink, f.Src)
	switch {
	case t.routed(f.Src, f.HostLink):
		t.fault(FaultMissingRule, "no rule of priority %d sends packets for %s to the table with its route; decided by %q", PriorityToPod, f.Src, v.rule)
	case known || t.v.Desired != nil && t.v.hostLinkOf(f.Src) == f.HostLink:
		t.fault(FaultMissingRoute, "no route leads to pod %s by %s", f.Src, f.HostLink)
	default:
		t.fault(FaultSpoofed, "%s is not the address of the pod behind %s: %s", f.Src, f.HostLink, v)
	}
}

func ipWord(a netip.Addr) string {
	if a.Is6() {
		return "ip6"
	}
	return "ip"
}

// mark finds the ENI's mark in the map of sources.
func (t *tracer) mark(rule string) {
	f := t.p.Flow
	for _, s := range t.v.Node.Filter.Sources {
		if !s.Prefix.Contains(f.Src) {
			continue
		}
		for _, c := range t.v.Node.Filter.Chains {
			var and, or uint32
			if c.Name == s.Chain && len(c.Rules) == 1 {
				if _, err := fmt.Sscanf(c.Rules[0], "meta mark set meta mark & 0x%x | 0x%x", &and, &or); err == nil {
					t.p.Mark = t.p.Mark&and | or
				}
			}
		}
		t.hop("nft "+s.Chain, fmt.Sprintf("sets the mark %#x", t.p.Mark), s.String())
		return
	}
	t.hop("nft from-pod", "sets no mark", rule+" has no element for "+f.Src.String())
}

// foreign reports a decision by a rule that neither we nor the kernel made.
func (t *tracer) foreign(r Rule) {
	if r.Priority == 0 || r.Priority >= 32766 && r.Protocol == ruleProtocol || ownedRule(r) {
		return
	}
	t.fault(FaultForeignRule, "another program's rule %q decides", r)
}

// forwarding checks that the node is a router.
func (t *tracer) forwarding(ipv6 bool) {
	key := "net.ipv4.ip_forward"
	if ipv6 {
		key = "net.ipv6.conf.all.forwarding"
	}
	if t.v.Node.sysctl(key) == "0" {
		t.fault(FaultNoForwarding, "%s is 0", key)
	}
}

// isPodLink reports whether a link leads to a pod.
func (v View) isPodLink(name string) bool {
	prefix := DefaultHostLinkPrefix
	if v.Desired != nil {
		prefix = v.Desired.Node.prefix()
	}
	return strings.HasPrefix(name, prefix)
}

// deliver follows a packet to a pod of this node.
func (t *tracer) deliver(hop func(where, what, why string), to netip.Addr, link string) bool {
	if !t.usable(link) {
		return false
	}
	n, ok := t.v.Node.neighbor(link, to)
	if !ok {
		t.fault(FaultNoNeighbor, "no permanent entry for pod %s on %s", to, link)
		return false
	}
	hop(link, "delivers it to the pod", n.String())
	want := ""
	if t.v.Sandbox != nil && t.v.Sandbox.hasAddress(to) {
		for _, a := range t.v.Sandbox.Addresses {
			if l, ok := t.v.Sandbox.link(a.Link); ok && a.Prefix.Addr() == to {
				want = l.MAC
			}
		}
	}
	if t.v.Desired != nil && want == "" {
		for _, p := range t.v.Desired.Pods {
			if p.HostLink() == link {
				want = p.SandboxMAC().String()
			}
		}
	}
	if want != "" && want != n.MAC {
		t.fault(FaultStaleNeighbor, "the node sends to MAC %s, but pod %s has %s", n.MAC, to, want)
		return false
	}
	return true
}

// leave checks the ENI by which the packet leaves, and its source.
func (t *tracer) leave(v verdict) bool {
	f := t.p.Flow
	translated := f.HostLink != "" && t.v.Translation.applies(f.Dst)
	if translated {
		t.p.Source = t.v.Translation.To
		t.hop("snat", "translates the source to "+t.p.Source.String(), "")
	}
	t.hop(v.route.Link, "sends it into the VPC", "")
	private := f.Src.Is4() && f.Src.IsPrivate() && f.Dst.IsGlobalUnicast() && !f.Dst.IsPrivate()
	if f.HostLink != "" && private && t.v.Translation == nil && !t.v.External {
		t.fault(FaultLostSNAT, "%s leaves the node for %s untranslated, and the internet gateway drops it", f.Src, f.Dst)
	}
	if owner, ok := t.v.owner(t.p.Source); ok && owner.Link != v.route.Link {
		t.misled(owner, v)
	}
	return true
}

// misled finds out why a packet leaves by an ENI that does not own its source.
func (t *tracer) misled(owner ENI, v verdict) {
	src := t.p.Source
	t.fault(FaultWrongENI, "it leaves by %s, but %s owns %s: the VPC drops it", v.route.Link, owner.Link, src)
	if owner.Primary() {
		return
	}
	if t.v.Desired.Node.layout() == Flat && t.p.Flow.HostLink != "" {
		t.misledFlat(owner, v)
		return
	}
	for _, r := range t.v.Node.Rules {
		if r.From == hostPrefix(src) && (r.Priority == PriorityFromPod || r.Priority == PriorityFromENI) {
			t.fault(FaultWrongTable, "rule %q should look into table %d", r, owner.Table())
			return
		}
	}
	t.fault(FaultMissingRule, "no rule sends packets from %s to table %d", src, owner.Table())
}

func (t *tracer) misledFlat(owner ENI, v verdict) {
	if t.p.Mark&MarkENI != uint32(owner.number()) {
		t.fault(FaultMissingMark, "the source map should give %s the mark %#x, not %#x", t.p.Source, owner.number(), t.p.Mark&MarkENI)
		return
	}
	for _, r := range t.v.Node.Rules {
		if r.Priority == PriorityFromPod && r.Mask == MarkENI && r.Mark == uint32(owner.number()) && r.IPv6 == t.p.Source.Is6() {
			t.fault(FaultWrongTable, "rule %q should look into table %d, and that should lead to %s", r, owner.Table(), owner.Link)
			return
		}
	}
	t.fault(FaultMissingRule, "no rule sends the mark %#x to table %d; decided by %q", owner.number(), owner.Table(), v.rule)
}

// back follows the answer from the VPC, or from a pod or the node itself, to
// where the packet came from.
func (t *tracer) back() {
	f := t.p.Flow
	in := t.p.Egress
	if in != "" && !t.v.isPodLink(in) {
		t.hopBack(in, "receives the answer from the VPC", "")
		if !t.reverse(in) {
			return
		}
		if t.p.Source != f.Src {
			t.hopBack("snat", "translates the destination back to "+f.Src.String(), "")
		}
	}
	if f.HostLink == "" {
		t.hopBack("node", "is the destination", "")
		return
	}
	v := t.v.Node.lookup(query{src: f.Dst, dst: f.Src, iif: in})
	t.hopBack("routing", v.String(), "")
	switch {
	case v.route.Link == f.HostLink:
		t.deliver(t.hopBack, f.Src, f.HostLink)
	default:
		t.noWayBack(v)
	}
}

// routed reports whether some table has a route to the pod.
func (t *tracer) routed(a netip.Addr, link string) bool {
	for _, r := range t.v.Node.Routes {
		if r.Dst == hostPrefix(a) && r.Link == link {
			return true
		}
	}
	return false
}

// reverse applies reverse path filtering to the answer: strict filtering drops
// it where the way back to its sender is another link.
func (t *tracer) reverse(in string) bool {
	if t.p.Flow.Src.Is6() {
		return true
	}
	link := "net.ipv4.conf." + strings.ReplaceAll(in, ".", "/") + ".rp_filter"
	mode := max(t.v.Node.sysctl(link), t.v.Node.sysctl("net.ipv4.conf.all.rp_filter"))
	if mode != "1" {
		return true
	}
	v := t.v.Node.lookup(query{src: t.p.Source, dst: t.p.Flow.Dst})
	if v.route.Link == in {
		return true
	}
	t.fault(FaultStrictReverse, "%s drops the answer from %s: %s=%s, and without a mark the way to it is %s", in, t.p.Flow.Dst, link, mode, v.route.Link)
	return false
}

func prefixesText(p []netip.Prefix) string {
	var s []string
	for _, x := range p {
		s = append(s, x.String())
	}
	return strings.Join(s, ", ")
}
