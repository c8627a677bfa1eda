// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// View is the input of Trace: what is known of a node and a sandbox. It is plain data,
// so it can be saved as JSON on one machine and explained on another.
type View struct {
	// Node is the state of the node, as [datapath.Handle.Observe] reads it.
	Node netstate.State
	// Sandbox is the state of the pod's sandbox. Optional.
	Sandbox *netstate.State `json:",omitempty"`
	// Desired tells which ENI owns an address. Without it, Trace cannot detect that a
	// packet leaves by the wrong ENI, and says so. Optional.
	Desired *datapath.Desired `json:",omitempty"`
	// Translation says how the node translates sources; nil means not at all.
	Translation *Translation `json:",omitempty"`
	// Egress are the translations of pods' packets of the family that the cluster does not
	// have.
	Egress []Egress `json:",omitempty"`
	// Policies are the network policies of package policy; nil means that there are none.
	Policies *Policies `json:",omitempty"`
	// External says that a device outside the node translates sources.
	External bool `json:",omitempty"`
	// Filters are base chains of other programs in nftables that may drop packets, and the
	// chains FORWARD of iptables-legacy. Trace names them but does not evaluate their rules.
	Filters []OtherChain `json:",omitempty"`
}

// OtherChain is a base chain of another program, named as in nft. The table of
// iptables-legacy is "iptables-legacy filter".
type OtherChain struct {
	Family, Table, Chain string
	// Drops says that the chain has policy drop.
	Drops bool `json:",omitempty"`
}

func (c OtherChain) String() string {
	s := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Chain)
	if c.Drops {
		s += " (policy drop)"
	}
	return s
}

// Translation describes the source translation of package snat. Its fields are those of
// snat.Translation.
type Translation struct {
	// Inside are the destinations for which sources are not translated.
	Inside []netip.Prefix
	// To is the source address after translation. If it is invalid, no packet is
	// translated. Link is the link that a packet must leave by to be translated.
	To   netip.Addr
	Link string
	// Mark is set on packets that are to be translated: [datapath.MarkPrimary] on a
	// healthy node; 0 means that no packet is marked.
	Mark uint32
	// HostLinkPrefix is the prefix of the links that mark their packets.
	HostLinkPrefix string
	// Odd are the parts of the rules that could not be interpreted.
	Odd []string `json:",omitempty"`
}

// outside reports whether t applies to packets to dst.
func (t *Translation) outside(dst netip.Addr) bool {
	return t != nil && dst.Is4() && !includes(t.Inside, dst)
}

// Flow identifies a packet and its answer.
type Flow struct {
	Src, Dst netip.Addr
	// HostLink is the host link of the pod that sends the packet. If it is empty,
	// Trace finds the pod by Src; if no pod has that address, the node sends.
	HostLink string `json:",omitempty"`
	// Proto is icmp, tcp, udp, sctp or the number of a protocol, and Port is the
	// destination port. They matter only for rules of other programs that match them.
	// Optional.
	Proto string `json:",omitempty"`
	Port  uint16 `json:",omitempty"`
}

// Validate reports why f is not a valid packet: addresses of different families or with
// a zone, or an unknown protocol.
func (f Flow) Validate() error {
	var errs []error
	for _, a := range []netip.Addr{f.Src, f.Dst} {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			errs = append(errs, fmt.Errorf("address %s: want an IPv4 or IPv6 address without a zone", a))
		}
	}
	if f.Src.Is4() != f.Dst.Is4() {
		errs = append(errs, fmt.Errorf("source %s and destination %s have different families", f.Src, f.Dst))
	}
	if _, ok := f.proto(); !ok {
		errs = append(errs, fmt.Errorf("protocol %q, want icmp, tcp, udp, sctp or a number from 1 to 255", f.Proto))
	}
	return errors.Join(errs...)
}

// proto returns the number of the transport protocol, 0 if Proto is empty. It reports
// false if Proto is invalid.
func (f Flow) proto() (int, bool) {
	if f.Proto == "" {
		return 0, true
	}
	name := strings.ToLower(f.Proto)
	if name == "icmp" && f.Dst.Is6() || name == "icmpv6" {
		return netstate.ICMPv6, true
	}
	if p, ok := netstate.ParseIPProto(name); ok {
		return p, true
	}
	n, err := strconv.ParseUint(name, 10, 8)
	return int(n), err == nil && n > 0
}

// Hop is one decision on the way of a packet.
type Hop struct {
	// Where is the place: a link, a table or a chain.
	Where string
	// The event at that place, in words.
	What string
	// Why is the object that decides, in the notation of ip and nft. It is empty if no
	// object decides.
	Why string
}

// Path is the way of a packet and the way of its answer.
type Path struct {
	Flow   Flow
	Out    []Hop
	Back   []Hop
	Faults []Fault
	// Unchecked lists what Trace could not determine.
	Unchecked []Note `json:",omitempty"`
	// Egress is the link by which the packet leaves the node. Mark and Source are its
	// mark and source address when it leaves.
	Egress string `json:",omitempty"`
	Mark   uint32
	Source netip.Addr

	// lookups are the route lookups of both directions, for Confirm.
	lookups []lookup
}

// lookup is a route lookup and its result.
type lookup struct {
	netstate.Query
	netstate.Verdict
}

// OK reports whether Trace found no fault. The packet arrives, as far as the node can
// tell, unless something in Unchecked stops it.
func (p Path) OK() bool { return len(p.Faults) == 0 }

// Has reports whether Trace found the fault.
func (p Path) Has(name FaultName) bool {
	for _, f := range p.Faults {
		if f.Name == name {
			return true
		}
	}
	return false
}

// String returns a description for people.
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
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "FAULT %s: %s\n", f.Name, f.Detail)
	}
	for _, n := range p.Unchecked {
		fmt.Fprintf(&b, "NOT CHECKED %s: %s\n", n.Name, n.Detail)
	}
	switch {
	case !p.OK():
	case len(p.Unchecked) > 0:
		b.WriteString("no fault found in what was checked\n")
	default:
		b.WriteString("no fault found\n")
	}
	return b.String()
}

// Trace explains the way of a packet through the node and the way of its answer, decision
// by decision, and names what is wrong. It is a pure function: it decides as the kernel
// would, from what v contains, and lists in Path.Unchecked what v does not contain.
// [Confirm] compares its lookups with those of the kernel.
//
// Trace evaluates the rules and settings of packages datapath, policy and snat, and the routes
// and rules of all programs. It does not evaluate packet filters of other programs, such as a
// FORWARD chain with policy drop, or the service translation of kube-proxy: for a service,
// trace the way to one of its endpoints. It follows a packet until it leaves the node, not
// through security groups, network ACLs and VPC route tables.
func Trace(v View, f Flow) Path {
	t := &tracer{v: v, p: Path{Flow: f, Source: f.Src}}
	if err := f.Validate(); err != nil {
		t.fault(FaultUnknownSource, "%v", err)
		return t.p
	}
	if link := v.egressLinkOf(f.Src); link != "" && (f.HostLink == "" || f.HostLink == link) {
		t.p.Flow.HostLink = link
		t.egress(link)
		t.notes()
		return t.p
	}
	if t.p.Flow.HostLink == "" {
		t.p.Flow.HostLink = v.hostLinkOf(f.Src)
	}
	if t.direct() {
		t.notes()
		return t.p
	}
	if t.p.Flow.HostLink == "" && !v.Node.HasAddress(f.Src) {
		t.fault(FaultUnknownSource, "this node does not have the address %s, and no route or neighbour entry leads to a pod with it", f.Src)
		return t.p
	}
	out := t.leg(f.Src, f.Dst, t.p.Flow.HostLink, &t.p.Out)
	if end := t.out(out); end.reached {
		t.back(end)
	}
	t.notes()
	return t.p
}

// hostLinkOf returns the host link of the pod with an address. It looks for a route to
// the address, then for a neighbour entry, then for a wanted pod.
func (v View) hostLinkOf(a netip.Addr) string {
	for _, r := range v.Node.Routes {
		if r.Dst == netstate.HostPrefix(a) && v.isPodLink(r.Link) {
			return r.Link
		}
	}
	for _, n := range v.Node.Neighbors {
		if n.Addr == a && v.isPodLink(n.Link) {
			return n.Link
		}
	}
	if p, ok := v.podWith(a); ok {
		return p.NodeLink()
	}
	return ""
}

// podWith returns the wanted pod that has the address.
func (v View) podWith(a netip.Addr) (datapath.Pod, bool) {
	if v.Desired == nil {
		return datapath.Pod{}, false
	}
	for _, p := range v.Desired.Pods {
		if slices.ContainsFunc(p.Addrs, func(x datapath.PodAddr) bool { return x.Addr == a }) {
			p, _ = p.Resolve(v.Node.Links)
			return p, true
		}
	}
	return datapath.Pod{}, false
}

// isPodLink reports whether the link of that name leads to a pod.
func (v View) isPodLink(name string) bool {
	return v.isCheckedLink(name) || isStrictLink(name)
}

// isCheckedLink reports whether the nftables table checks packets from the link.
func (v View) isCheckedLink(name string) bool {
	return strings.HasPrefix(name, v.prefix()) || v.Desired != nil && slices.Contains(v.Desired.Node.PodLinks, name)
}

// prefix returns the prefix of host links: that of the wanted node or, if it is unknown,
// the one in our nftables table.
func (v View) prefix() string {
	if v.Desired != nil {
		return cmp.Or(v.Desired.Node.HostLinkPrefix, claims.DefaultHostLinkPrefix)
	}
	for _, c := range v.Node.Filter.Chains {
		for _, rule := range c.Rules {
			if len(rule.Statements) != 2 || rule.Statements[1] != (nft.Jump{Chain: "from-pod"}) {
				continue
			}
			link, _ := rule.Statements[0].(nft.Link)
			if name, ok := strings.CutSuffix(link.Name, "*"); ok && !link.Out {
				return name
			}
		}
	}
	return claims.DefaultHostLinkPrefix
}

// owner returns the ENI that owns an address, with the name of its link. It reports sure
// false if it derived the ENI from the node's own tables.
func (v View) owner(a netip.Addr) (e datapath.ENI, sure, ok bool) {
	if v.Desired == nil {
		e, ok = eniOf(v.Node, a)
		return e, false, ok
	}
	if p, ok := v.podWith(a); ok && p.Mode.Branch != nil {
		e := p.Mode.Branch.ENI
		e.Link = p.Mode.Branch.Link()
		return e, true, true
	}
	n, _ := v.Desired.Node.Resolve(v.Node.Links)
	for _, e := range n.ENIs {
		if includes(e.Sources, a) {
			return e, true, true
		}
		for _, p := range e.Addrs {
			if p.Addr() == a {
				return e, true, true
			}
		}
	}
	return datapath.ENI{}, false, false
}

// eniOf derives the ENI of a pod's address from the state of a node with layout Flat: the
// map of sources holds the number of the ENI, and the rules for the ENIs' own addresses
// hold their tables.
func eniOf(s netstate.State, a netip.Addr) (datapath.ENI, bool) {
	number := 0
	for _, x := range s.Filter.Sources {
		if x.Prefix.Contains(a) {
			_, _ = fmt.Sscanf(x.Chain, "eni-%d", &number)
		}
	}
	var found datapath.ENI
	for _, r := range s.Rules {
		card, device := cardAndDevice(r.Table)
		switch {
		case r.Priority == claims.PriorityFromPod && r.Mask == claims.MarkENI && r.Mark != uint32(datapath.Number(card, device)) && r.Table != netstate.TableMain:
			return datapath.ENI{}, false // the ENIs have numbers other than the default
		case r.Priority == claims.PriorityFromENI && r.From.IsValid() && r.IPv6 == a.Is6() && datapath.Number(card, device) == number:
			found = datapath.ENI{Card: card, Device: device, Link: s.Holder(r.From.Addr()), Addrs: []netip.Prefix{r.From}}
		}
	}
	return found, found.Link != "" && number != 0
}

// cardAndDevice is the inverse of [datapath.Table] for secondary ENIs.
func cardAndDevice(table int) (card, device int) {
	if table < 10000 {
		return 0, table - 1
	}
	return (table - 10000) / 100, table % 100
}

// includes reports whether one of the prefixes contains a.
func includes(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
