// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Rule is a row of matches and statements. Its text is that of the nft program.
type Rule struct {
	Statements []Statement
	Comment    string
}

// NewRule returns the rule of the statements, without a comment.
func NewRule(statements ...Statement) Rule { return Rule{Statements: statements} }

// String returns the rule as the nft program prints it. A [Foreign] statement begins a
// comment in nft's notation.
func (r Rule) String() string {
	words := make([]string, 0, len(r.Statements)+1)
	for _, s := range r.Statements {
		words = append(words, s.String())
	}
	if r.Comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(words, " ")
}

// IsForeign reports whether r has a part that this package cannot express.
func (r Rule) IsForeign() bool {
	return slices.ContainsFunc(r.Statements, func(s Statement) bool { _, foreign := s.(Foreign); return foreign })
}

// MarshalText returns the text of r.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is [ParseRule] and never fails.
func (r *Rule) UnmarshalText(text []byte) error {
	*r = ParseRule(string(text))
	return nil
}

// Statement is a match or an action of a [Rule]: one of [Accept], [Counter], [CtMark],
// [Destination], [DestinationMap], [DestinationNotIn], [Drop], [Established], [FlowAdd],
// [Foreign], [Goto], [InBoxes], [Jump], [Limit], [Link], [LinkIn], [LocalAddr], [Log],
// [NewFlow], [NoReverseRoute], [Protocol], [Reject], [Related], [Reply], [Return],
// [RouterAdvert], [Self], [SetCtMark], [SetMark], [SourceMap] and [SourceNAT]. All of them
// are comparable.
type Statement interface {
	fmt.Stringer
	statement()
}

// Family is a version of IP.
type Family byte

// The families have the numbers of their versions.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is6() {
		return IPv6
	}
	return IPv4
}

// String returns the keyword for headers of the family, "ip" or "ip6".
func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// Matches.
type (
	// Link matches the name of the link that a packet came in by, or with Out the one
	// that it leaves by. A star at the end of Name matches any end.
	Link struct {
		Out  bool
		Name string
	}
	// LinkIn matches packets by a set of [Links]: by the link that they came in by, or with
	// Out by the one that they leave by.
	LinkIn struct {
		Out bool
		Set string
	}
	// NewFlow matches packets of a flow that has seen no answer.
	NewFlow struct{}
	// Established matches packets of a flow that has seen an answer.
	Established struct{}
	// Related matches packets about another flow, such as errors of ICMP.
	Related struct{}
	// Reply matches packets that go in the opposite direction of a flow's first packet.
	Reply struct{}
	// CtMark matches flows by the bits of their mark that are in Mask: they have the
	// value, or with Not another value.
	CtMark struct {
		Mask, Value uint32
		Not         bool
	}
	// LocalAddr matches packets to an address of this host, or with Source packets
	// from one. Not inverts the match.
	LocalAddr struct{ Source, Not bool }
	// NoReverseRoute matches packets that came in by another link than the one that
	// the route to their source uses.
	NoReverseRoute struct{}
	// RouterAdvert matches IPv6 router advertisements.
	RouterAdvert struct{}
	// Protocol matches packets of a transport protocol, TCP or UDP.
	Protocol byte
	// Destination matches packets to an address.
	Destination struct{ Addr netip.Addr }
	// DestinationNotIn matches packets of a family to addresses outside of the set.
	DestinationNotIn struct {
		Family Family
		Set    string
	}
	// InBoxes matches packets of a family in a set of [Boxes]: by the source address,
	// or with Dst by the destination, by the protocol, and by the destination port, or
	// with SourcePort by the source port. Other protocols than those with ports have
	// the bytes at the same place, so a box without limit of ports matches them all. A
	// packet that ends before these bytes does not match.
	InBoxes struct {
		Family     Family
		Dst        bool
		SourcePort bool
		Set        string
	}
	// Self matches packets of a family with the same source and destination, an address
	// in a set of [Selves].
	Self struct {
		Family Family
		Set    string
	}
	// Limit matches so many packets a second, and five more at once.
	Limit struct{ PerSecond uint64 }
)

// The protocols that [Protocol] may be.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// Actions.
type (
	// SourceMap looks up the source of packets of a family in a map of verdicts. If
	// the map does not have it, the packet continues with the next rule.
	SourceMap struct {
		Family Family
		Map    string
	}
	// DestinationMap does the same with the destination.
	DestinationMap struct {
		Family Family
		Map    string
	}
	// SetMark puts Value into the bits of the packet's mark that are in Mask, and
	// leaves the other bits alone. Value has only bits of Mask.
	SetMark struct{ Mask, Value uint32 }
	// SetCtMark does the same with the mark of the flow.
	SetCtMark struct{ Mask, Value uint32 }
	// Counter counts packets and bytes.
	Counter struct{}
	// SourceNAT gives the flow its source address, and a port from First to Last if
	// they are not 0.
	SourceNAT struct {
		To          netip.Addr
		First, Last uint16
		Choice      PortChoice
	}
	// FlowAdd puts the flow of the packet into a [Flowtable], unless its protocol is neither
	// TCP nor UDP, or the kernel has another reason against it.
	FlowAdd struct{ Flowtable string }
	// Jump continues with the rules of another chain, and after its last one with the
	// next rule of this one.
	Jump struct{ Chain string }
	// Goto continues with the rules of another chain instead of those of this one.
	Goto struct{ Chain string }
	// Log sends the beginning of the packet to the listeners of a group of netlink.
	Log struct {
		Prefix string
		Group  uint16
	}
	// Return ends the chain, and continues with the rule after the jump to it.
	Return struct{}
	// Accept lets the packet pass the base chain.
	Accept struct{}
	// Drop discards the packet.
	Drop struct{}
	// Reject discards the packet and tells its sender that the port is unreachable.
	Reject struct{}
	// Foreign is a part of a rule that this package cannot express. Text names the
	// kernel's expressions, or is the text that [ParseRule] did not know.
	Foreign struct{ Text string }
)

// PortChoice says how [SourceNAT] chooses a port.
type PortChoice string

// The choices of ports, in nft's words.
const (
	PortKept   PortChoice = ""             // the port of the flow, where it is free
	PortHash   PortChoice = "random"       // from a keyed hash of the flow on
	PortRandom PortChoice = "fully-random" // at random
)

func (Link) statement()             {}
func (LinkIn) statement()           {}
func (NewFlow) statement()          {}
func (Established) statement()      {}
func (FlowAdd) statement()          {}
func (Related) statement()          {}
func (Reply) statement()            {}
func (InBoxes) statement()          {}
func (Self) statement()             {}
func (Limit) statement()            {}
func (Goto) statement()             {}
func (Log) statement()              {}
func (CtMark) statement()           {}
func (LocalAddr) statement()        {}
func (NoReverseRoute) statement()   {}
func (RouterAdvert) statement()     {}
func (Protocol) statement()         {}
func (Destination) statement()      {}
func (DestinationNotIn) statement() {}
func (SourceMap) statement()        {}
func (DestinationMap) statement()   {}
func (SetMark) statement()          {}
func (SetCtMark) statement()        {}
func (Counter) statement()          {}
func (SourceNAT) statement()        {}
func (Jump) statement()             {}
func (Return) statement()           {}
func (Accept) statement()           {}
func (Drop) statement()             {}
func (Reject) statement()           {}
func (Foreign) statement()          {}

func (s Link) String() string {
	if s.Out {
		return "oifname " + strconv.Quote(s.Name)
	}
	return "iifname " + strconv.Quote(s.Name)
}

func (s LinkIn) String() string {
	if s.Out {
		return "oifname @" + s.Set
	}
	return "iifname @" + s.Set
}

func (NewFlow) String() string { return "ct state new" }

func (Established) String() string { return "ct state established" }

func (s FlowAdd) String() string { return "flow add @" + s.Flowtable }

func (Related) String() string { return "ct state related" }

func (Reply) String() string { return "ct direction reply" }

func (s CtMark) String() string {
	op := "=="
	if s.Not {
		op = "!="
	}
	return fmt.Sprintf("ct mark & 0x%08x %s 0x%08x", s.Mask, op, s.Value)
}

func (s LocalAddr) String() string {
	selector, not := "daddr", ""
	if s.Source {
		selector = "saddr"
	}
	if s.Not {
		not = "!= "
	}
	return fmt.Sprintf("fib %s type %slocal", selector, not)
}

func (NoReverseRoute) String() string { return "fib saddr . iif oif missing" }

func (RouterAdvert) String() string { return "icmpv6 type nd-router-advert" }

func (s Protocol) String() string {
	switch s {
	case TCP:
		return "meta l4proto tcp"
	case UDP:
		return "meta l4proto udp"
	}
	return fmt.Sprintf("meta l4proto %d", byte(s))
}

func (s Destination) String() string {
	return fmt.Sprintf("%s daddr %s", FamilyOf(s.Addr), s.Addr)
}

func (s DestinationNotIn) String() string { return fmt.Sprintf("%s daddr != @%s", s.Family, s.Set) }

func (s InBoxes) String() string {
	addr, port := "saddr", "dport"
	if s.Dst {
		addr = "daddr"
	}
	if s.SourcePort {
		port = "sport"
	}
	return fmt.Sprintf("%s %s . meta l4proto . th %s @%s", s.Family, addr, port, s.Set)
}

func (s Self) String() string {
	return fmt.Sprintf("%s saddr . %s daddr @%s", s.Family, s.Family, s.Set)
}

func (s Limit) String() string { return fmt.Sprintf("limit rate %d/second", s.PerSecond) }

func (s SourceMap) String() string { return fmt.Sprintf("%s saddr vmap @%s", s.Family, s.Map) }

func (s DestinationMap) String() string { return fmt.Sprintf("%s daddr vmap @%s", s.Family, s.Map) }

func (s SetMark) String() string { return "meta mark set meta mark" + markText(s.Mask, s.Value) }

func (s SetCtMark) String() string { return "ct mark set ct mark" + markText(s.Mask, s.Value) }

// markText writes a change of bits as nft does: it clears first only the bits that
// become 0.
func markText(mask, value uint32) string {
	text := fmt.Sprintf(" | 0x%08x", value)
	if and := ^mask | value; and != ^uint32(0) {
		text = fmt.Sprintf(" & 0x%08x", and) + text
	}
	return text
}

func (Counter) String() string { return "counter" }

func (s SourceNAT) String() string {
	to := s.To.String()
	if s.First != 0 || s.Last != 0 {
		if s.To.Is6() {
			to = "[" + to + "]"
		}
		to += fmt.Sprintf(":%d-%d", s.First, s.Last)
	}
	text := fmt.Sprintf("snat %s to %s", FamilyOf(s.To), to)
	if s.Choice != PortKept {
		text += " " + string(s.Choice)
	}
	return text
}

func (s Jump) String() string { return "jump " + s.Chain }

func (s Goto) String() string { return "goto " + s.Chain }

func (s Log) String() string { return fmt.Sprintf("log prefix %q group %d", s.Prefix, s.Group) }

func (Return) String() string { return "return" }

func (Accept) String() string { return "accept" }

func (Drop) String() string { return "drop" }

func (Reject) String() string { return "reject" }

func (s Foreign) String() string { return "# " + s.Text }
