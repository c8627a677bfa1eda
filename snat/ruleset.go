// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"fmt"
	"net/netip"
	"strings"
)

// Table is the name of our table, of family inet. Nobody else writes to it, and
// we write to no other.
const Table = "vpcnet-snat"

// insideSet holds the destinations that stay as they are.
const insideSet = "inside"

// returnsChain marks the answers that return by other ENIs than the primary.
const returnsChain = "returns"

// maxLinkName is the kernel's IFNAMSIZ, which counts the closing zero.
const maxLinkName = 16

// The hooks and priorities in use. Connection tracking is at -200, kube-proxy
// rewrites destinations at -100 and sources at 100 in all of its modes, and the
// order of equal priorities is not defined.
// https://wiki.nftables.org/wiki-nftables/index.php/Netfilter_hooks
const (
	kindFilter = "filter"
	kindNAT    = "nat"

	hookPrerouting  = "prerouting"
	hookPostrouting = "postrouting"

	// priorityMangle is after connection tracking and before any rewriting.
	priorityMangle = -150
	// priorityAfterDNAT sees the destination that the packet is routed to. The
	// chain there is no nat chain: those are skipped once a flow is rewritten.
	priorityAfterDNAT = -90
	// priorityAfterSNAT leaves the first word to kube-proxy and to port mappings.
	priorityAfterSNAT = 110
)

// Ruleset is what the table holds. Its String is the text that `nft -f` accepts
// and `nft list table` prints.
type Ruleset struct {
	sets   []set
	chains []chain
}

type set struct {
	name     string
	prefixes []netip.Prefix
	// odd says what the set has that none of ours has.
	odd string
}

// chain without a hook is one to jump to.
type chain struct {
	name, kind, hook string
	priority         int
	rules            []rule
	// odd says what the chain has that none of ours has.
	odd string
}

type rule struct {
	stmts   []stmt
	comment string
}

const (
	protocolTCP protocol = 6
	protocolUDP protocol = 17
)

// stmt is one matching or acting part of a rule.
type stmt interface{ String() string }

type (
	// linkName matches the link a packet comes in by, or goes out by; a star at
	// the end matches any end.
	linkName struct {
		out  bool
		name string
	}
	// ctNew matches packets of a flow that has seen no answer.
	ctNew struct{}
	// outside matches IPv4 destinations that are not in the set.
	outside struct{ set string }
	// addrType matches a destination, or a source, that is one of the node's
	// own addresses, or is not.
	addrType struct{ source, not bool }
	// ctMarked matches flows that carry the value in the bits of the mask, and
	// ctNumbered those that carry any there but 0.
	ctMarked   struct{ mask, value uint32 }
	ctNumbered struct{ mask uint32 }
	// setCtMark and setMark set the bit in the flow and in the packet, and leave
	// the other bits alone.
	setCtMark struct{ bit uint32 }
	setMark   struct{ bit uint32 }
	// ctReply matches the packets that answer a flow's first one.
	ctReply struct{}
	// setCtNumber and setNumber put the number into the bits of the mask, in the
	// flow and in the packet, and leave the other bits alone.
	setCtNumber struct{ mask, number uint32 }
	setNumber   struct{ mask, number uint32 }
	jump        struct{ chain string }
	counter     struct{}
	// protocol matches packets of a transport protocol.
	protocol byte
	// translate gives the flow its source address, and a port of the range if
	// there is one.
	translate struct {
		to     netip.Addr
		ports  Ports
		random Random
	}
	// foreign is something that we never write.
	foreign struct{ what string }
)

func (s linkName) String() string {
	if s.out {
		return fmt.Sprintf("oifname %q", s.name)
	}
	return fmt.Sprintf("iifname %q", s.name)
}

func (ctNew) String() string { return "ct state new" }

func (s outside) String() string { return "ip daddr != @" + s.set }

func (s addrType) String() string {
	selector, not := "daddr", ""
	if s.source {
		selector = "saddr"
	}
	if s.not {
		not = "!= "
	}
	return fmt.Sprintf("fib %s type %slocal", selector, not)
}

func (s ctMarked) String() string {
	return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", s.mask, s.value)
}
func (s ctNumbered) String() string {
	return fmt.Sprintf("ct mark & 0x%08x != 0x00000000", s.mask)
}
func (s setCtMark) String() string   { return fmt.Sprintf("ct mark set ct mark | 0x%08x", s.bit) }
func (s setMark) String() string     { return fmt.Sprintf("meta mark set meta mark | 0x%08x", s.bit) }
func (ctReply) String() string       { return "ct direction reply" }
func (s setCtNumber) String() string { return "ct mark set ct mark" + bitsText(s.mask, s.number) }
func (s setNumber) String() string   { return "meta mark set meta mark" + bitsText(s.mask, s.number) }
func (s jump) String() string        { return "jump " + s.chain }
func (counter) String() string       { return "counter" }
func (s foreign) String() string     { return "# " + s.what }

// bitsText writes the change of bits as nft does: only those that are to be 0
// are cleared first.
func bitsText(mask, number uint32) string {
	text := fmt.Sprintf(" | 0x%08x", number)
	if keep := ^mask | number; keep != ^uint32(0) {
		text = fmt.Sprintf(" & 0x%08x", keep) + text
	}
	return text
}

func (s protocol) String() string {
	return "meta l4proto " + map[protocol]string{protocolTCP: "tcp", protocolUDP: "udp"}[s]
}

func (s translate) String() string {
	flags := map[Random]string{RandomPRNG: " fully-random", RandomHash: " random"}[s.random]
	if s.ports != (Ports{}) {
		return fmt.Sprintf("snat ip to %v:%d-%d%s", s.to, s.ports.First, s.ports.Last, flags)
	}
	return fmt.Sprintf("snat ip to %v%s", s.to, flags)
}

func (r rule) String() string {
	var words []string
	for _, s := range r.stmts {
		words = append(words, s.String())
	}
	if r.comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(words, " ")
}

// String returns the table in the notation of nft, "" if there is no rule.
func (r Ruleset) String() string {
	if r.empty() {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	gap := ""
	for _, s := range r.sets {
		b.WriteString(gap + s.String())
		gap = "\n"
	}
	for _, c := range r.chains {
		b.WriteString(gap + c.String())
		gap = "\n"
	}
	return b.String() + "}\n"
}

func (s set) String() string {
	var elements strings.Builder
	for i, p := range s.prefixes {
		switch { // as nft aligns them
		case i > 0 && i%2 == 0:
			elements.WriteString(",\n\t\t\t     ")
		case i > 0:
			elements.WriteString(", ")
		}
		if p.IsSingleIP() {
			elements.WriteString(p.Addr().String())
		} else {
			elements.WriteString(p.String())
		}
	}
	text := fmt.Sprintf("\tset %s {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { %v }\n", s.name, &elements)
	if s.odd != "" {
		text += "\t\t# " + s.odd + "\n"
	}
	return text + "\t}\n"
}

func (c chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.name)
	if c.hook != "" {
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.kind, c.hook, priorityText(c))
	}
	if c.odd != "" {
		fmt.Fprintf(&b, "\t\t# %s\n", c.odd)
	}
	for _, r := range c.rules {
		fmt.Fprintf(&b, "\t\t%v\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

// priorityText writes a priority as nft does: relative to a name within ten.
func priorityText(c chain) string {
	names := map[string]int{"raw": -300, "mangle": -150, "filter": 0, "security": 50}
	if c.hook == hookPrerouting {
		names["dstnat"] = -100
	}
	if c.hook == hookPostrouting {
		names["srcnat"] = 100
	}
	for name, base := range names {
		switch d := c.priority - base; {
		case d == 0:
			return name
		case d > 0 && d <= 10:
			return fmt.Sprintf("%s + %d", name, d)
		case d < 0 && d >= -10:
			return fmt.Sprintf("%s - %d", name, -d)
		}
	}
	return fmt.Sprint(c.priority)
}

func (r Ruleset) empty() bool { return len(r.sets) == 0 && len(r.chains) == 0 }

// Equal reports whether r and o are the same.
func (r Ruleset) Equal(o Ruleset) bool { return r.String() == o.String() }
