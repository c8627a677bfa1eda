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
)

// View is what Trace looks at. A View is plain data: it can be saved as JSON on
// one machine and explained on another.
type View struct {
	// Node is the node's state, as Observe reads it.
	Node netstate.State
	// Sandbox is the state of the pod's sandbox. Optional.
	Sandbox *netstate.State `json:",omitempty"`
	// Desired tells which ENI owns an address. Without it, Trace cannot see that
	// a packet leaves by the wrong one, and says so. Optional.
	Desired *datapath.Desired `json:",omitempty"`
	// Translation is how the node translates sources; nil is not at all.
	Translation *Translation `json:",omitempty"`
	// External says that something beyond the node translates sources.
	External bool `json:",omitempty"`
	// Filters are the base chains of other programs in nftables that may stop a
	// packet. Trace names them and does not read their rules.
	Filters []OtherChain `json:",omitempty"`
}

// OtherChain is a base chain of another program, in nft's words.
type OtherChain struct {
	Family, Table, Chain string
	// Drops says that its policy is to drop.
	Drops bool `json:",omitempty"`
}

func (c OtherChain) String() string {
	s := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Chain)
	if c.Drops {
		s += " (policy drop)"
	}
	return s
}

// Translation is what package snat sets up, as far as a packet's way goes. Its
// fields are those of snat.Translation.
type Translation struct {
	// Inside are the destinations that sources are not translated for.
	Inside []netip.Prefix
	// To is the source afterwards, and Link the link that a packet must leave by
	// to be translated. Without To nothing is translated.
	To   netip.Addr
	Link string
	// Mark is what packets that shall be translated are marked with, MarkPrimary
	// on a healthy node; 0 is not at all.
	Mark uint32
	// HostLinkPrefix begins the names of the links whose packets are marked.
	HostLinkPrefix string
	// Odd are parts of the rules whose meaning is unknown.
	Odd []string `json:",omitempty"`
}

// outside reports whether t is about packets to dst.
func (t *Translation) outside(dst netip.Addr) bool {
	return t != nil && dst.Is4() && !includes(t.Inside, dst)
}

// Flow is a packet and its answer.
type Flow struct {
	Src, Dst netip.Addr
	// HostLink is where the packet comes from: a pod's host link. Empty is found by
	// Src; if no pod has Src, the node sends.
	HostLink string `json:",omitempty"`
	// Proto is icmp, tcp, udp, sctp or a protocol's number. Port is the
	// destination's. Both are for rules of other programs that go by them: those
	// of this package do not. Optional.
	Proto string `json:",omitempty"`
	Port  uint16 `json:",omitempty"`
}

// Validate reports what keeps f from being a packet: addresses of two families
// or with a zone, or an unknown protocol.
func (f Flow) Validate() error {
	var errs []error
	for _, a := range []netip.Addr{f.Src, f.Dst} {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			errs = append(errs, fmt.Errorf("address %s is not a plain one", a))
		}
	}
	if f.Src.Is4() != f.Dst.Is4() {
		errs = append(errs, fmt.Errorf("%s and %s are of different families", f.Src, f.Dst))
	}
	if _, ok := f.proto(); !ok {
		errs = append(errs, fmt.Errorf("protocol %q is neither icmp, tcp, udp, sctp nor a number of 1..255", f.Proto))
	}
	return errors.Join(errs...)
}

// proto returns the number of the transport protocol, 0 if none is given.
func (f Flow) proto() (int, bool) {
	if f.Proto == "" {
		return 0, true
	}
	name := strings.ToLower(f.Proto)
	if name == "icmp" && f.Dst.Is6() || name == "icmpv6" {
		return netstate.ICMPv6, true
	}
	if p, ok := netstate.IpProtoNumber(name); ok {
		return p, true
	}
	n, err := strconv.ParseUint(name, 10, 8)
	return int(n), err == nil && n > 0
}

// Hop is one decision on the way.
type Hop struct {
	// Where is the place: a link, a table, a chain.
	Where string
	// What happens there, and Why: the object that decides, in the notation of ip
	// and nft.
	What, Why string
}

// Path is a packet's way out and its answer's way back.
type Path struct {
	Flow   Flow
	Out    []Hop
	Back   []Hop
	Faults []Fault
	// Unchecked is what could not be judged.
	Unchecked []Note `json:",omitempty"`
	// Egress is the link by which the packet leaves the node, Mark its mark then,
	// and Source its source then.
	Egress string `json:",omitempty"`
	Mark   uint32
	Source netip.Addr

	// asked are the lookups of both directions, for Confirm.
	asked []lookedUp
}

// lookedUp is a route lookup with its answer.
type lookedUp struct {
	netstate.Query
	netstate.Verdict
}

// OK reports that no fault was found: the packet arrives as far as the node can
// tell and nothing in Unchecked stops it.
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

// Trace explains the way of a packet of f through the node and the way of its
// answer, decision by decision, and names what is wrong. It is a pure function:
// it decides as the kernel would, from what v holds, and lists in
// Path.Unchecked what v does not tell. See [Handle.Confirm] for the kernel's own
// answer.
//
// Trace knows this package's rules and settings, those of package snat, and
// routes and rules of anyone. It does not read other programs' packet filters, as
// a FORWARD chain with policy drop, nor kube-proxy's translation of services: ask
// about an endpoint. It follows a packet to the end of the node and not through
// security groups, network ACLs and VPC route tables.
func Trace(v View, f Flow) Path {
	t := &tracer{v: v, p: Path{Flow: f, Source: f.Src}}
	if err := f.Validate(); err != nil {
		t.fault(FaultUnknownSource, "%v", err)
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
		t.fault(FaultUnknownSource, "%s is no address of this node, and no route or neighbour entry leads to a pod with it", f.Src)
		return t.p
	}
	out := t.leg(f.Src, f.Dst, t.p.Flow.HostLink, &t.p.Out)
	if end := t.out(out); end.reached {
		t.back(end)
	}
	t.notes()
	return t.p
}

// hostLinkOf returns the host link of the pod with an address, by the route to
// it or, if that is lost, by what is desired.
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

// podWith returns the desired pod that has an address.
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

// isPodLink reports whether a link leads to a pod.
func (v View) isPodLink(name string) bool {
	return strings.HasPrefix(name, v.prefix()) || isStrictLink(name)
}

// prefix begins the names of host links: what is desired or, where that is not
// known, what our nftables table says.
func (v View) prefix() string {
	if v.Desired != nil {
		return cmp.Or(v.Desired.Node.HostLinkPrefix, claims.DefaultHostLinkPrefix)
	}
	for _, c := range v.Node.Filter.Chains {
		for _, rule := range c.Rules {
			name, rest, ok := strings.Cut(strings.TrimPrefix(rule, `iifname "`), `*" `)
			if ok && rest == "jump from-pod" {
				return name
			}
		}
	}
	return claims.DefaultHostLinkPrefix
}

// owner returns the ENI that owns an address, with its link's name. It is not
// sure if only the node's own tables say so.
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

// eniOf finds the ENI of a pod's address in what a node in the flat layout has:
// the map of sources knows the ENI's number, and the rules from ENIs' own
// addresses their tables.
func eniOf(s netstate.State, a netip.Addr) (datapath.ENI, bool) {
	number := 0
	for _, x := range s.Filter.Sources {
		if x.Prefix.Contains(a) {
			_, _ = fmt.Sscanf(x.Chain, "eni-%d", &number)
		}
	}
	var found datapath.ENI
	for _, r := range s.Rules {
		card, device := place(r.Table)
		switch {
		case r.Priority == claims.PriorityFromPod && r.Mask == claims.MarkENI && r.Mark != uint32(datapath.Number(card, device)) && r.Table != netstate.TableMain:
			return datapath.ENI{}, false // numbers of somebody's choice
		case r.Priority == claims.PriorityFromENI && r.From.IsValid() && r.IPv6 == a.Is6() && datapath.Number(card, device) == number:
			found = datapath.ENI{Card: card, Device: device, Link: s.Holder(r.From.Addr()), Addrs: []netip.Prefix{r.From}}
		}
	}
	return found, found.Link != "" && number != 0
}

// place is the inverse of Table for secondary ENIs.
func place(table int) (card, device int) {
	if table < 10000 {
		return 0, table - 1
	}
	return (table - 10000) / 100, table % 100
}

// includes reports whether one of the prefixes contains a.
func includes(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
