// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The types of chains and the hooks that this package knows.
const (
	TypeFilter = "filter"
	TypeNAT    = "nat"

	HookPrerouting  = "prerouting"
	HookPostrouting = "postrouting"

	// PriorityMangle is after connection tracking and before the route is chosen and
	// destinations are rewritten.
	PriorityMangle = -150
)

// Table is a table of family inet. A Table without sets and chains describes an absent
// table.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
	// Foreign describes a property of the table that this package cannot express.
	Foreign string
}

// Set is a set of prefixes, or with IsMap a map of prefixes to chains.
type Set struct {
	Name     string
	Family   Family
	IsMap    bool
	Elements []Element
	// Foreign describes a property of the set that this package cannot express.
	Foreign string
}

// Element is an element of a set, or of a map if it has a chain to jump to.
type Element struct {
	Prefix netip.Prefix
	Chain  string
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
func (t Table) IsEmpty() bool { return len(t.Sets) == 0 && len(t.Chains) == 0 && t.Foreign == "" }

// Equal reports whether both tables have the same text, apart from the order of sets and
// of chains, which is that of their creation and has no meaning.
func (t Table) Equal(o Table) bool { return t.sorted().String() == o.sorted().String() }

// sorted returns t with its sets and chains in the order of their names.
func (t Table) sorted() Table {
	t.Sets = slices.SortedStableFunc(slices.Values(t.Sets), func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	t.Chains = slices.SortedStableFunc(slices.Values(t.Chains), func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
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
	for _, s := range t.Sets {
		b.WriteString(gap)
		s.write(&b)
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
	key := "ipv4_addr"
	if s.Family == IPv6 {
		key = "ipv6_addr"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n\t\tflags interval\n", kind, s.Name, key, verdict)
	for i, e := range s.Elements {
		switch { // nft aligns them so
		case i == 0:
			b.WriteString("\t\telements = { ")
		case i%perLine == 0:
			b.WriteString(",\n\t\t\t     ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(e.String())
	}
	if len(s.Elements) > 0 {
		b.WriteString(" }\n")
	}
	if s.Foreign != "" {
		fmt.Fprintf(b, "\t\t# %s\n", s.Foreign)
	}
	b.WriteString("\t}\n")
}

// String returns the element in nft's notation.
func (e Element) String() string {
	text := e.Prefix.String()
	if e.Prefix.IsSingleIP() {
		text = e.Prefix.Addr().String()
	}
	if e.Chain != "" {
		text += " : jump " + e.Chain
	}
	return text
}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.Type, c.Hook, c.priority())
	}
	if c.Foreign != "" {
		fmt.Fprintf(b, "\t\t# %s\n", c.Foreign)
	}
	for _, r := range c.Rules {
		b.WriteString("\t\t" + r.String() + "\n")
	}
	b.WriteString("\t}\n")
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
