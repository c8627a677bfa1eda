// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// direct follows a packet that the sandbox sends into the VPC by itself, by an ipvlan link
// or a whole ENI, without involving the node. It reports false for every other packet.
func (t *tracer) direct() bool {
	f := t.p.Flow
	l := t.leg(f.Src, f.Dst, "", &t.p.Out)
	p, wanted := t.v.podWith(f.Src)
	var want netstate.Verdict
	if wanted {
		s := p.SandboxState()
		s.Rules = append(s.Rules, netstate.BuiltinRules(netstate.FamilyOf(f.Dst))...)
		want = s.Lookup(netstate.Query{Src: f.Src, Dst: f.Dst})
	}
	whole := wanted && p.Mode.Whole != nil
	if t.v.Sandbox == nil {
		if whole {
			t.note(NoteSandbox, "what is inside the pod with %s, which has an ENI of its own and does not use the node", f.Src)
		}
		return whole
	}
	v := t.v.Sandbox.Lookup(netstate.Query{Src: f.Src, Dst: f.Dst, Proto: l.Proto})
	past := v.Found && !v.Local && !v.Refuses() && !byNode(v.Route)
	if !whole && !(past && t.v.Sandbox.HasAddress(f.Src)) {
		return false
	}
	t.unjudged(v)
	if !t.ownLink(f.Src, p, wanted) {
		return true
	}
	switch {
	case v.Refuses():
		t.fault(FaultBlockedRoute, "%s in the sandbox refuses %s", v, f.Dst)
		return true
	case !v.Found:
		t.fault(FaultMissingRoute, "the sandbox has no route to %s", f.Dst)
		return true
	}
	link := v.Route.Link
	l.hop("pod "+link, "sends it into the VPC, past the node", v.Route.String())
	if wanted && (want.Route.Via != v.Route.Via || want.Route.Link != link) {
		t.fault(FaultWrongRoute, "the sandbox sends it by %q, and should by %q", v.Route, want.Route)
		return true
	}
	if !wanted {
		t.note(NoteOwner, "whether the ENI below %s owns %s, and whether that gateway is its subnet's", link, f.Src)
	}
	if whole && !t.v.External && private(f.Src) && public(f.Dst) {
		t.note(NoteUntouched, "whether something beyond the node translates %s: packets of a pod with an ENI of its own leave as they are", f.Src)
	}
	t.hopBackDirect(link)
	return true
}

// hopBackDirect adds the way of the answer.
func (t *tracer) hopBackDirect(link string) {
	t.p.Back = append(t.p.Back, Hop{"pod " + link, "receives the answer from the VPC", ""})
}

// byNode reports whether a route of a sandbox leads to the node.
func byNode(r netstate.Route) bool { return isPodGateway(r.Via) || isPodGateway(r.Dst.Addr()) }

// ownLink checks the sandbox's link into the VPC, and that the pod has its address.
func (t *tracer) ownLink(src netip.Addr, p datapath.Pod, wanted bool) bool {
	s := t.v.Sandbox
	name := s.Holder(src)
	if wanted {
		name = p.IfName
	}
	link, ok := s.Link(name)
	switch {
	case name != "" && !ok:
		t.fault(FaultNoLink, "link %s of the sandbox does not exist", name)
	case ok && !link.Up:
		t.fault(FaultLinkDown, "link %s of the sandbox is down", name)
	case !s.HasAddress(src):
		t.fault(FaultMissingAddr, "the sandbox does not have the address %s", src)
	case wanted && len(p.Wiring().SandboxMAC) > 0 && link.MAC != p.Wiring().SandboxMAC.String():
		t.fault(FaultWrongMAC, "link %s of the sandbox has MAC %s, its ENI %s: the VPC drops it", name, link.MAC, p.Wiring().SandboxMAC)
	default:
		return true
	}
	return false
}

// isPodGateway reports whether a is one of the addresses that [claims.Gateway] returns.
func isPodGateway(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	b := a.AsSlice()
	n := int(b[len(b)-1])
	return n > 0 && a == claims.Gateway(a, n-1)
}

// isVLANLink reports whether the link of that name is the VLAN link of a branch ENI.
func isVLANLink(name string) bool { return strings.HasPrefix(name, claims.BranchPrefix) }

// isStrictLink reports whether the link of that name is the host link of a pod on a branch
// ENI under Strict.
func isStrictLink(name string) bool { return claims.IsBranchLink(name) && !isVLANLink(name) }

// port checks that the bridge between the node and a pod has the pod's host link as a port.
// It reports true if there is no bridge.
func (t *tracer) port(a netip.Addr, bridge string) bool {
	if l, _ := t.v.Node.Link(bridge); l.Kind != "bridge" {
		return true
	}
	p, ok := t.v.podWith(a)
	if !ok {
		t.note(NotePort, "which port of %s leads to the pod with %s", bridge, a)
		return true
	}
	l, ok := t.v.Node.Link(p.HostLink())
	switch {
	case !ok:
		t.fault(FaultNoLink, "link %s does not exist", p.HostLink())
	case !l.Up:
		t.fault(FaultLinkDown, "link %s is down", l.Name)
	case l.Master != bridge:
		t.fault(FaultNoPort, "link %s is not a port of %s", l.Name, bridge)
	default:
		return true
	}
	return false
}

// vlanOf returns the VLAN ID of the branch ENI of a pod under Strict.
func (t *tracer) vlanOf(a netip.Addr, hostLink string) (int, bool) {
	if p, ok := t.v.podWith(a); ok && p.Mode.Branch != nil {
		return p.Mode.Branch.VLAN, true
	}
	for _, r := range t.v.Node.Routes {
		if r.Dst == netstate.HostPrefix(a) && r.Link == hostLink && r.Table > claims.BranchTableOffset {
			return r.Table - claims.BranchTableOffset, true
		}
	}
	return 0, false
}

// vlan checks the VLAN link of a branch ENI by which a packet leaves: its ID, its trunk ENI
// and, for IPv6 under Strict, that the node accepts messages of the VPC router.
func (t *tracer) vlan(l *leg, name string) bool {
	if !isVLANLink(name) {
		return true
	}
	link, _ := t.v.Node.Link(name)
	id, _ := strconv.Atoi(strings.TrimPrefix(name, claims.BranchPrefix))
	if link.VLAN != id {
		t.fault(FaultWrongVLAN, "link %s has the VLAN ID %d", name, link.VLAN)
		return false
	}
	if p, ok := t.v.podWith(l.Src); ok && p.Mode.Branch != nil && p.Mode.Branch.VLAN == id {
		b := p.Mode.Branch
		switch {
		case b.Trunk.Link != "" && link.Parent != b.Trunk.Link:
			t.fault(FaultWrongVLAN, "link %s is on %s, not on the trunk ENI's link %s", name, link.Parent, b.Trunk.Link)
			return false
		case link.MAC != b.ENI.MAC.String():
			t.fault(FaultWrongMAC, "link %s has MAC %s, its ENI %s: the VPC drops it", name, link.MAC, b.ENI.MAC)
			return false
		}
	}
	if isStrictLink(l.in) && l.Dst.Is6() {
		heard := slices.ContainsFunc(t.v.Node.RulesFor(netstate.IPv6), func(r netstate.Rule) bool {
			applies, _ := r.Applies(netstate.Query{Src: claims.Router6, Dst: l.Src, IIF: name, Proto: netstate.ICMPv6})
			return applies && r.Table == netstate.TableLocal && r.Priority < claims.PriorityBranch
		})
		if !heard {
			t.fault(FaultMissingRule, "no rule before %d looks packets from %s up in table local: neighbour discovery on %s fails", claims.PriorityBranch, claims.Router6, name)
			return false
		}
	}
	return t.usable(l, link.Parent)
}

// enforced checks what packets between the node itself and a pod under Strict need: the
// rules of such pods come before the lookup of the node's own addresses, and early
// demultiplexing is off, so that the kernel does not look for a socket before routing.
func (t *tracer) enforced() {
	f := t.p.Flow
	link, node := f.HostLink, f.Dst
	if !isStrictLink(link) {
		link, node = t.v.hostLinkOf(f.Dst), f.Src
	}
	if !isStrictLink(link) || !t.v.Node.HasAddress(node) {
		return
	}
	local := false
	for _, r := range t.v.Node.RulesFor(netstate.FamilyOf(f.Dst)) {
		if r.Table != netstate.TableLocal || r.From.IsValid() || r.Other != "" {
			continue
		}
		local = true
		if r.Priority < claims.PriorityBranch {
			t.fault(FaultLocalFirst, "rule %q comes before those of priority %d, so packets between the node and the pod bypass the branch ENI", r, claims.PriorityBranch)
		}
	}
	if !local {
		t.fault(FaultMissingRule, "no rule looks into table local, so the node does not accept packets to its address %s", node)
	}
	if t.v.Node.Sysctl(claims.EarlyDemux) == "1" {
		t.fault(FaultEarlyDemux, "%s is 1: the kernel assigns answers of the pod to a socket before routing, and drops them", claims.EarlyDemux)
	}
}
