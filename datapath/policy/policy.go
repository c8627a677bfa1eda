// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocol is a protocol number of IPv4 and IPv6. See
// https://www.iana.org/assignments/protocol-numbers
type Protocol uint8

// The protocols that have names in the text of this package.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

// String returns the name of the protocol, or its number if it has none here.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "ipv6-icmp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// MarshalText returns the name of the protocol, or its number.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *Protocol) UnmarshalText(text []byte) error {
	for _, known := range []Protocol{ICMP, TCP, UDP, ICMPv6, SCTP} {
		if string(text) == known.String() {
			*p = known
			return nil
		}
	}
	n, err := strconv.ParseUint(string(text), 10, 8)
	if err != nil {
		return fmt.Errorf("protocol %q: want icmp, tcp, udp, ipv6-icmp, sctp or a number up to 255", text)
	}
	*p = Protocol(n)
	return nil
}

// hasPorts reports whether a port number of the protocol has a meaning.
func (p Protocol) hasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// Direction is a direction as seen from a pod.
type Direction bool

// The directions.
const (
	Ingress Direction = false // to the pod
	Egress  Direction = true  // from the pod
)

// String returns "ingress" or "egress".
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// MarshalText returns the name of the direction.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Direction) UnmarshalText(text []byte) error {
	for _, known := range []Direction{Ingress, Egress} {
		if string(text) == known.String() {
			*d = known
			return nil
		}
	}
	return fmt.Errorf("direction %q, want ingress or egress", text)
}

// Class is what a pod may receive and send. Pods that the same policies select share a
// class. The zero Class allows everything.
type Class struct {
	Ingress, Egress Rules
}

// Rules are the rules of a class in one direction. The zero Rules allow everything.
//
// Before decides first. Then Allow decides, if Isolated is set, and After otherwise. What no
// rule has decided at the end passes.
type Rules struct {
	// Before are rules that Allow cannot override, such as those of the administrator of a
	// cluster. The first one with the connection decides.
	Before []OrderedRule
	// Isolated means that, of what Before leaves undecided, only what Allow has passes. Without
	// it Allow must be empty. Allow is the union of what each rule has; the order of its rules
	// has no meaning.
	Isolated bool
	Allow    []Rule
	// After are rules for pods that are not isolated, such as the defaults of a cluster. The
	// first one with the connection decides. If Isolated is set, they have no effect.
	After []OrderedRule
}

// OrderedRule is a rule of [Rules] with what it decides about the connections that it has.
type OrderedRule struct {
	Rule
	Action Action
}

// Action is what an [OrderedRule] decides.
type Action uint8

// The actions. Pass, the zero Action, leaves a connection to the rules after the list that the
// rule is in: those of Rules.Before to Allow or After, and those of Rules.After to what passes
// without a rule.
const (
	Pass Action = iota
	Accept
	Deny
)

// Rule has the connections between a pod and each of Peers with each of Ports. A Rule
// without peers or without ports has none.
type Rule struct {
	// Name tells an operator where the rule is from. It decides nothing.
	Name  string
	Peers []Block
	Ports []Ports
}

// Block is a block of addresses without some parts of it. The zero Block is every address
// of both families.
type Block struct {
	// Prefix may have bits behind its length, which are ignored.
	Prefix netip.Prefix
	// Except are excluded from this block only: another Block may have them. Those of
	// another family, and those outside of Prefix, exclude nothing.
	Except []netip.Prefix
}

// Ports is a range of destination ports of a protocol: those of the first packet of a
// connection. The zero Ports is every port of every protocol.
type Ports struct {
	// Protocol is 0 for every protocol, without a range.
	Protocol Protocol
	// First and Last are the ends of the range, which both belong to it. Both are 0 for
	// all ports. Last is 0 for First alone. Protocols other than TCP, UDP and SCTP have
	// no range.
	First, Last uint16
}

// contains reports whether b has the address.
func (b Block) contains(a netip.Addr) bool {
	if !b.Prefix.IsValid() {
		return !slices.ContainsFunc(b.Except, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return b.Prefix.Contains(a) && !slices.ContainsFunc(b.Except, func(p netip.Prefix) bool { return p.Contains(a) })
}

// ends returns the first and the last port of the range.
func (p Ports) ends() (first, last uint16) {
	switch {
	case p.First == 0 && p.Last == 0:
		return 0, 0xffff
	case p.Last == 0:
		return p.First, p.First
	}
	return p.First, p.Last
}

func (p Ports) contains(protocol Protocol, port uint16) bool {
	first, last := p.ends()
	return p.Protocol == 0 || p.Protocol == protocol && port >= first && port <= last
}

// Packet is a packet between a pod and a peer, as a class judges it.
type Packet struct {
	Direction Direction
	Peer      netip.Addr
	Protocol  Protocol
	// Port is the destination port of the first packet of the connection: 0 for a
	// protocol without ports. A reply has it as its source port.
	Port uint16
}

// Verdict is the judgement of a packet.
type Verdict struct {
	Allowed bool
	// Rule is the name of the rule that decides: the first rule of [Rules.Allow] with the packet,
	// or an [OrderedRule]. It is empty if no rule decides.
	Rule string
}

// Judge returns whether the rules of a class allow a packet. It is the meaning of a
// class, by which the tests judge [Compile] and the kernel.
func Judge(c Class, p Packet) Verdict {
	rules := c.rules(p.Direction)
	if r := first(rules.Before, p); r != nil && r.Action != Pass {
		return Verdict{Allowed: r.Action == Accept, Rule: r.Name}
	}
	if rules.Isolated {
		for _, r := range rules.Allow {
			if r.has(p) {
				return Verdict{Allowed: true, Rule: r.Name}
			}
		}
		return Verdict{}
	}
	if r := first(rules.After, p); r != nil && r.Action != Pass {
		return Verdict{Allowed: r.Action == Accept, Rule: r.Name}
	}
	return Verdict{Allowed: true}
}

// first returns the first rule that has a packet, nil if there is none.
func first(rules []OrderedRule, p Packet) *OrderedRule {
	if i := slices.IndexFunc(rules, func(r OrderedRule) bool { return r.has(p) }); i >= 0 {
		return &rules[i]
	}
	return nil
}

// has reports whether a packet belongs to a connection of the rule.
func (r Rule) has(p Packet) bool {
	return slices.ContainsFunc(r.Peers, func(b Block) bool { return b.contains(p.Peer) }) &&
		slices.ContainsFunc(r.Ports, func(x Ports) bool { return x.contains(p.Protocol, p.Port) })
}

func (c Class) rules(d Direction) Rules {
	if d == Egress {
		return c.Egress
	}
	return c.Ingress
}

// ErrInvalid is wrapped by the errors for classes and states that the kernel cannot have.
var ErrInvalid = errors.New("policy")

func (c Class) validate() error {
	for _, d := range []Direction{Ingress, Egress} {
		rules := c.rules(d)
		if !rules.Isolated && len(rules.Allow) > 0 {
			return fmt.Errorf("%w: %s has %d rules and is not isolated, want it isolated", ErrInvalid, d, len(rules.Allow))
		}
		all := slices.Clone(rules.Allow)
		for _, r := range slices.Concat(rules.Before, rules.After) {
			if r.Action > Deny {
				return fmt.Errorf("%w: %s rule %q: action %d, want %d to %d", ErrInvalid, d, r.Name, r.Action, Pass, Deny)
			}
			all = append(all, r.Rule)
		}
		for _, r := range all {
			if err := r.validate(); err != nil {
				return fmt.Errorf("%w: %s rule %q: %w", ErrInvalid, d, r.Name, err)
			}
		}
	}
	return nil
}

func (r Rule) validate() error {
	for _, b := range r.Peers {
		if b.Prefix.Addr().Is4In6() {
			return fmt.Errorf("peers %v: want an IPv4 prefix in the place of an IPv4-mapped one", b.Prefix)
		}
		for _, e := range b.Except {
			if !e.IsValid() || e.Addr().Is4In6() {
				return fmt.Errorf("exception %v: want a valid prefix that is not IPv4-mapped", e)
			}
		}
	}
	for _, p := range r.Ports {
		first, last := p.ends()
		switch {
		case first > last:
			return fmt.Errorf("ports %d to %d: want the last one not below the first", first, last)
		case !p.Protocol.hasPorts() && (p.First != 0 || p.Last != 0):
			return fmt.Errorf("ports %d to %d of protocol %s: want TCP, UDP or SCTP", first, last, p.Protocol)
		}
	}
	return nil
}

// maxName is the greatest length of the name of a class. The kernel's names have at most
// 255 bytes, of which this package needs some for a prefix.
const maxName = 200

// checkName returns an error for the name of a class that cannot stand in nft's notation.
func checkName(name string) error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/-_.", r)
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return fmt.Errorf("%w: class %q: want a name of 1 to %d letters, digits, slashes, hyphens, underscores and dots", ErrInvalid, name, maxName)
	}
	return nil
}
