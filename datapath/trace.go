// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"strings"
)

// View is what Trace looks at. A View is plain data: it can be saved as JSON on
// one machine and explained on another.
type View struct {
	// Node is the node's state, as Observe reads it.
	Node State
	// Sandbox is the state of the pod's sandbox. Optional.
	Sandbox *State `json:",omitempty"`
	// Desired tells which ENI owns an address. Without it, Trace cannot see that
	// a packet leaves by the wrong one. Optional.
	Desired *Desired `json:",omitempty"`
	// Translation is how the node translates sources; nil is not at all.
	Translation *Translation `json:",omitempty"`
	// External says that something beyond the node translates sources.
	External bool `json:",omitempty"`
}

// Translation is what package snat sets up, as far as a packet's way goes.
type Translation struct {
	// Inside are the destinations that sources are not translated for.
	Inside []netip.Prefix
	// To is the source afterwards.
	To netip.Addr
}

// applies reports whether a packet from a pod to dst is translated.
func (t *Translation) applies(dst netip.Addr) bool {
	if t == nil || dst.Is6() {
		return false
	}
	for _, p := range t.Inside {
		if p.Contains(dst) {
			return false
		}
	}
	return true
}

// Flow is a packet and its answer.
type Flow struct {
	Src, Dst netip.Addr
	// HostLink is where the packet comes from: a pod's host link. Empty is found by
	// Src; if no pod has Src, the node sends.
	HostLink string `json:",omitempty"`
	// Proto and Port are shown; no decision of the node depends on them.
	Proto string `json:",omitempty"`
	Port  uint16 `json:",omitempty"`
}

// Hop is one decision on the way.
type Hop struct {
	// Where is the place: a link, a table, a chain.
	Where string
	// What happens there, and Why: the object that decides, in the notation of ip
	// and nft.
	What, Why string
}

// Fault is a reason why a packet goes wrong.
type Fault struct {
	Name   FaultName
	Detail string
}

// FaultName is one of the constants below.
type FaultName string

// What Trace finds.
const (
	FaultNoLink        FaultName = "missing-link"      // a link of the way does not exist
	FaultLinkDown      FaultName = "link-down"         // a link of the way is down
	FaultMissingRoute  FaultName = "missing-route"     // no route, or one that refuses
	FaultMissingRule   FaultName = "missing-rule"      // the rule that should decide is not there
	FaultWrongTable    FaultName = "wrong-table"       // a rule leads to another ENI's table
	FaultMissingMark   FaultName = "missing-mark"      // the source map does not know the source
	FaultWrongENI      FaultName = "wrong-eni"         // it leaves by an ENI that does not own the source
	FaultNoFilter      FaultName = "missing-filter"    // the nftables table or a chain of it is not there
	FaultSpoofed       FaultName = "source-not-owned"  // the pod may not send with this source
	FaultRefused       FaultName = "refused"           // policy: the metadata service
	FaultStaleNeighbor FaultName = "stale-neighbour"   // a permanent entry has an old MAC
	FaultNoNeighbor    FaultName = "missing-neighbour" // a permanent entry is not there
	FaultStrictReverse FaultName = "strict-rp-filter"  // the answer is dropped on arrival
	FaultNoForwarding  FaultName = "forwarding-off"    // the node is no router
	FaultLostSNAT      FaultName = "lost-snat"         // a private source goes to the internet
	FaultForeignRule   FaultName = "foreign-rule"      // another program's rule decides
	FaultBlockedRoute  FaultName = "unreachable-route" // a route that refuses
	FaultDiffers       FaultName = "kernel-disagrees"  // the kernel's own answer is another
)

// Path is a packet's way out and its answer's way back.
type Path struct {
	Flow   Flow
	Out    []Hop
	Back   []Hop
	Faults []Fault
	// Egress is the link by which the packet leaves the node, Mark its mark then,
	// and Source its source then.
	Egress string `json:",omitempty"`
	Mark   uint32
	Source netip.Addr
}

// OK reports that the packet arrives as far as the node can tell.
func (p Path) OK() bool { return len(p.Faults) == 0 }

// Has reports whether a fault was found.
func (p Path) Has(name FaultName) bool {
	for _, f := range p.Faults {
		if f.Name == name {
			return true
		}
	}
	return false
}

// String returns the way as text for people.
func (p Path) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s", p.Flow.Src, p.Flow.Dst)
	if p.Flow.Proto != "" {
		fmt.Fprintf(&b, " %s", p.Flow.Proto)
	}
	if p.Flow.Port != 0 {
		fmt.Fprintf(&b, " port %d", p.Flow.Port)
	}
	b.WriteString("\n")
	for _, part := range []struct {
		title string
		hops  []Hop
	}{{"out", p.Out}, {"back", p.Back}} {
		if len(part.hops) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s:\n", part.title)
		for i, h := range part.hops {
			fmt.Fprintf(&b, "  %d. %-16s %s\n", i+1, h.Where, h.What)
			if h.Why != "" {
				fmt.Fprintf(&b, "     %-16s because of: %s\n", "", h.Why)
			}
		}
	}
	if p.OK() {
		b.WriteString("no fault found\n")
	}
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "FAULT %s: %s\n", f.Name, f.Detail)
	}
	return b.String()
}

// Trace explains the way of a packet of f through the node and the way of its
// answer, decision by decision, and names what is wrong. It is a pure function:
// it decides as the kernel would, from what v holds. See [Handle.Confirm] for the
// kernel's own answer.
func Trace(v View, f Flow) Path {
	t := &tracer{v: v, p: Path{Flow: f, Source: f.Src}}
	if t.p.Flow.HostLink == "" {
		t.p.Flow.HostLink = v.hostLinkOf(f.Src)
	}
	if t.direct() {
		return t.p
	}
	if t.out() {
		t.back()
	}
	return t.p
}

// hostLinkOf returns the host link of the pod with an address, by the route to
// it or, if that is lost, by what is desired.
func (v View) hostLinkOf(a netip.Addr) string {
	for _, r := range v.Node.Routes {
		if r.Dst == hostPrefix(a) && (r.Table == TablePods || r.Protocol == RouteProtocol) {
			return r.Link
		}
	}
	for _, n := range v.Node.Neighbors {
		if n.Addr == a {
			return n.Link
		}
	}
	if v.Desired != nil {
		for _, p := range v.Desired.Pods {
			if p.has(hostPrefix(a)) {
				return p.HostLink()
			}
		}
	}
	return ""
}

// owner returns the ENI that owns an address, with its link's name.
func (v View) owner(a netip.Addr) (ENI, bool) {
	if v.Desired == nil {
		return ENI{}, false
	}
	if e, ok := v.branchOwner(a); ok {
		return e, true
	}
	n, _ := v.Desired.Node.resolve(v.Node.Links)
	for _, e := range n.ENIs {
		for _, p := range append(e.Addrs, e.Sources...) {
			if p.Addr() == a || p.Masked().Contains(a) && contains(e.Sources, a) {
				return e, true
			}
		}
	}
	return ENI{}, false
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
