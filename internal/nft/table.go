// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The types of chains and the hooks that this package knows.
const (
	TypeFilter = "filter"
	TypeNAT    = "nat"

	HookPrerouting  = "prerouting"
	HookForward     = "forward"
	HookPostrouting = "postrouting"

	// PriorityMangle is after connection tracking and before the route is chosen and
	// destinations are rewritten.
	PriorityMangle = -150
	// PriorityFilter is after destinations are rewritten, and before sources are.
	PriorityFilter = 0
)

// Table is a table of family inet. A Table without sets, flowtables and chains describes an
// absent table.
type Table struct {
	Name       string
	Sets       []Set
	Flowtables []Flowtable
	Chains     []Chain
	// Owned means that only the socket that has made the table, or has taken it over, can
	// change it: a flush of the ruleset by another program leaves it alone. The table
	// outlives the socket. See [Socket.Change] for kernels without owners.
	Owned bool
	// Orphan means that the owner's socket is closed, so that every program can change
	// the table until another socket takes it over.
	Orphan bool
	// Foreign describes a property of the table that this package cannot express.
	Foreign string
}

// Flowtable has flows. The kernel forwards their packets as soon as they come in by one of
// the links, before any chain sees them
// (https://docs.kernel.org/networking/nf_flowtable.html). The kernel takes a link out when it
// is deleted, and refuses a link that does not exist.
type Flowtable struct {
	Name  string
	Links []string
	// Foreign describes a property of the flowtable that this package cannot express.
	Foreign string
}

// Kind is a kind of keys of a [Set].
type Kind byte

// The kinds of keys. Their text is nft's, with the type of the address of a family.
const (
	Prefixes Kind = iota // prefixes that do not overlap
	Addrs                // single addresses
	Selves               // pairs of an address with itself
	Boxes                // boxes of addresses, protocols and ports that do not overlap
	Links                // names of links
)

// Set is a set of prefixes or of another kind of keys, or with IsMap a map of them to
// chains.
type Set struct {
	Name     string
	Family   Family
	Kind     Kind
	IsMap    bool
	Elements []Element
	// Foreign describes a property of the set that this package cannot express.
	Foreign string
}

// Element is an element of a set, or of a map if it has a chain to jump to. The key is
// Prefix, Box in a set of [Boxes], or Link in a set of [Links].
type Element struct {
	Prefix netip.Prefix
	Box    Box
	Link   string
	Chain  string
}

// Box is a box of addresses of one family, protocols and ports. Both ends of a range belong
// to it.
type Box struct {
	First, Last                 netip.Addr
	FirstProtocol, LastProtocol byte
	FirstPort, LastPort         uint16
}

// Contains reports whether an address, a protocol and a port are in the box.
func (b Box) Contains(a netip.Addr, protocol byte, port uint16) bool {
	return !a.Less(b.First) && !b.Last.Less(a) &&
		protocol >= b.FirstProtocol && protocol <= b.LastProtocol && port >= b.FirstPort && port <= b.LastPort
}

// Chain is a chain of rules. A base chain has a type, a hook and a priority, and the
// policy accept; packets reach other chains by a jump.
type Chain struct {
	Name, Type, Hook string
	Priority         int
	Rules            []Rule
	// Foreign describes a property of the chain that this package cannot express.
	Foreign string
}

// IsEmpty reports whether t describes an absent table.
func (t Table) IsEmpty() bool {
	return len(t.Sets) == 0 && len(t.Flowtables) == 0 && len(t.Chains) == 0 && t.Foreign == ""
}

// Equal reports whether both tables have the same text, apart from the order of sets, of
// flowtables and their links, and of chains, which is that of their creation and has no
// meaning.
func (t Table) Equal(o Table) bool { return t.sorted().String() == o.sorted().String() }

// sorted returns t with its parts in the order of their names.
func (t Table) sorted() Table {
	t.Sets = slices.SortedStableFunc(slices.Values(t.Sets), func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	t.Chains = slices.SortedStableFunc(slices.Values(t.Chains), func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	t.Flowtables = slices.SortedStableFunc(slices.Values(t.Flowtables), func(a, b Flowtable) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range t.Flowtables {
		t.Flowtables[i].Links = slices.Sorted(slices.Values(f.Links))
	}
	return t
}

// String returns the table as `nft list table` prints it and `nft -f` reads it, "" if
// it is absent. Parts that this package cannot express are comments in the text.
func (t Table) String() string {
	if t.IsEmpty() {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	gap := ""
	if t.Foreign != "" {
		fmt.Fprintf(&b, "\t# %s\n", t.Foreign)
		gap = "\n"
	}
	if t.Owned {
		b.WriteString("\t# only its owner can change the table\n")
		gap = "\n"
	}
	if t.Orphan {
		b.WriteString("\t# the owner has ended\n")
		gap = "\n"
	}
	for _, s := range t.Sets {
		b.WriteString(gap)
		s.write(&b)
		gap = "\n"
	}
	for _, f := range t.Flowtables {
		b.WriteString(gap)
		f.write(&b)
		gap = "\n"
	}
	for _, c := range t.Chains {
		b.WriteString(gap)
		c.write(&b)
		gap = "\n"
	}
	b.WriteString("}\n")
	return b.String()
}

func (s Set) write(b *strings.Builder) {
	kind, verdict, perLine := "set", "", 2
	if s.IsMap {
		kind, verdict, perLine = "map", " : verdict", 1
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, s.keyText(), verdict)
	if s.isInterval() {
		b.WriteString("\t\tflags interval\n")
	}
	for i, e := range s.Elements {
		switch { // nft aligns them so
		case i == 0:
			b.WriteString("\t\telements = { ")
		case i%perLine == 0:
			b.WriteString(",\n\t\t\t     ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(s.elementText(e))
	}
	if len(s.Elements) > 0 {
		b.WriteString(" }\n")
	}
	if s.Foreign != "" {
		fmt.Fprintf(b, "\t\t# %s\n", s.Foreign)
	}
	b.WriteString("\t}\n")
}

func (f Flowtable) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tflowtable %s {\n\t\thook ingress priority filter\n", f.Name)
	if len(f.Links) > 0 {
		fmt.Fprintf(b, "\t\tdevices = { %s }\n", strings.Join(f.Links, ", "))
	}
	if f.Foreign != "" {
		fmt.Fprintf(b, "\t\t# %s\n", f.Foreign)
	}
	b.WriteString("\t}\n")
}

// isInterval reports whether the keys of s are ranges.
func (s Set) isInterval() bool { return s.Kind == Prefixes || s.Kind == Boxes }

// keyText returns nft's type of the keys.
func (s Set) keyText() string {
	key := "ipv4_addr"
	if s.Family == IPv6 {
		key = "ipv6_addr"
	}
	switch s.Kind {
	case Selves:
		return key + " . " + key
	case Boxes:
		return key + " . inet_proto . inet_service"
	case Links:
		return "ifname"
	}
	return key
}

// elementText returns an element of s in nft's notation.
func (s Set) elementText(e Element) string {
	if s.Kind == Selves {
		return fmt.Sprintf("%s . %s", e.Prefix.Addr(), e.Prefix.Addr())
	}
	return e.String()
}

// compare orders elements by their keys: those of prefixes by the address, boxes by their
// first corner, and links by their names.
func (e Element) compare(o Element) int {
	return cmp.Or(
		e.Prefix.Addr().Compare(o.Prefix.Addr()), e.Box.First.Compare(o.Box.First),
		cmp.Compare(e.Box.FirstProtocol, o.Box.FirstProtocol), cmp.Compare(e.Box.FirstPort, o.Box.FirstPort),
		strings.Compare(e.Link, o.Link),
	)
}

// String returns the element in nft's notation.
func (e Element) String() string {
	text := e.Prefix.String()
	switch {
	case e.Link != "":
		text = strconv.Quote(e.Link)
	case e.Box != Box{}:
		text = e.Box.String()
	case e.Prefix.IsSingleIP():
		text = e.Prefix.Addr().String()
	}
	if e.Chain != "" {
		text += " : jump " + e.Chain
	}
	return text
}

// String returns the box in nft's notation.
func (b Box) String() string {
	addrs := b.First.String() + "-" + b.Last.String()
	if p, ok := prefixOf(b.First, b.Last); ok && p.IsSingleIP() {
		addrs = b.First.String()
	} else if ok {
		addrs = p.String()
	}
	return addrs + " . " + b.protocols() + " . " + rangeText(strconv.Itoa(int(b.FirstPort)), strconv.Itoa(int(b.LastPort)))
}

// protocols returns the protocols of the box in nft's notation.
func (b Box) protocols() string {
	if name, ok := protocolNames[b.FirstProtocol]; ok && b.FirstProtocol == b.LastProtocol {
		return name
	}
	return rangeText(strconv.Itoa(int(b.FirstProtocol)), strconv.Itoa(int(b.LastProtocol)))
}

// rangeText returns a range, or its only value.
func rangeText(first, last string) string {
	if first == last {
		return first
	}
	return first + "-" + last
}

// protocolNames are the names that nft writes on every system.
var protocolNames = map[byte]string{1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		b.WriteString("\t\t" + c.head() + "\n")
	}
	if c.Foreign != "" {
		fmt.Fprintf(b, "\t\t# %s\n", c.Foreign)
	}
	for _, r := range c.Rules {
		b.WriteString("\t\t" + r.String() + "\n")
	}
	b.WriteString("\t}\n")
}

// head returns the properties of a base chain in nft's notation.
func (c Chain) head() string {
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", c.Type, c.Hook, c.priority())
}

// priority writes the priority as nft does: relative to a name that is at most ten
// away, if there is one.
func (c Chain) priority() string {
	names := map[string]int{"raw": -300, "mangle": PriorityMangle, "filter": 0, "security": 50}
	switch c.Hook {
	case HookPrerouting:
		names["dstnat"] = -100
	case HookPostrouting:
		names["srcnat"] = 100
	}
	for name, base := range names {
		switch d := c.Priority - base; {
		case d == 0:
			return name
		case d > 0 && d <= 10:
			return fmt.Sprintf("%s + %d", name, d)
		case d < 0 && d >= -10:
			return fmt.Sprintf("%s - %d", name, -d)
		}
	}
	return fmt.Sprint(c.Priority)
}
