// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// change leads from one content of a table to another, and leaves what both have in its
// place.
//
// A transaction in which the table is deleted and made again is not enough. The kernel
// chooses the old or the new rules for a packet when a base chain begins, but looks in a
// set for elements that are valid at the time of the lookup, and calls the base chains of
// the old and of the new table one after the other. A packet that meets the end of the
// transaction finds the old map empty, or begins the new chain too early and the old one
// too late, and gets no mark.
type change struct {
	addChains      []Chain     // without their rules
	addSets        []Set       // with their elements
	addFlowtables  []Flowtable // or those of their links that are missing
	deleteElements []Set
	addElements    []Set
	rules          []Chain // all rules of these chains are replaced
	deleteChains   []Chain // rules has them too, without rules
	deleteSets     []Set

	deleteFlowtables []Flowtable
}

// changeOf returns the change from have to want. It returns false if there is none: one of
// the tables is absent, a base chain or a set has other properties than it needs, a flowtable
// has a link that it must not have, or have has something that this package cannot express.
func changeOf(have, want Table) (c change, ok bool) {
	if have.IsEmpty() || want.IsEmpty() || have.Foreign != "" || have.Owned != want.Owned {
		return c, false
	}
	return c, c.addChainsOf(have.Chains, want.Chains) && c.addSetsOf(have.Sets, want.Sets) && c.addFlowtablesOf(have.Flowtables, want.Flowtables)
}

func (c *change) addChainsOf(have, want []Chain) bool {
	old := map[string]Chain{}
	for _, h := range have {
		old[h.Name] = h
	}
	for _, w := range want {
		h, there := old[w.Name]
		delete(old, w.Name)
		switch {
		case !there:
			c.addChains = append(c.addChains, w)
			c.rules = append(c.rules, w)
		case h.Foreign != "" || h.Type != w.Type || h.Hook != w.Hook || h.Priority != w.Priority:
			return false
		case !equalRules(h.Rules, w.Rules):
			c.rules = append(c.rules, w)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		c.rules = append(c.rules, Chain{Name: name})
		c.deleteChains = append(c.deleteChains, Chain{Name: name})
	}
	return true
}

func equalRules(a, b []Rule) bool {
	return slices.EqualFunc(a, b, func(a, b Rule) bool {
		return a.Comment == b.Comment && slices.Equal(a.Statements, b.Statements) || a.String() == b.String()
	})
}

func (c *change) addSetsOf(have, want []Set) bool {
	old := map[string]Set{}
	for _, h := range have {
		old[h.Name] = h
	}
	for _, w := range want {
		h, there := old[w.Name]
		delete(old, w.Name)
		switch {
		case !there:
			c.addSets = append(c.addSets, w)
			continue
		case h.Foreign != "" || h.Family != w.Family || h.Kind != w.Kind || h.IsMap != w.IsMap:
			return false
		}
		if gone := h.without(w); len(gone.Elements) > 0 {
			c.deleteElements = append(c.deleteElements, gone)
		}
		if added := w.without(h); len(added.Elements) > 0 {
			c.addElements = append(c.addElements, added)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		s := old[name]
		if s.Foreign != "" {
			return false // its elements are unknown, and may refer to chains
		}
		if s.IsMap && len(s.Elements) > 0 { // else the elements end with the set, which is much faster
			c.deleteElements = append(c.deleteElements, s)
		}
		c.deleteSets = append(c.deleteSets, s)
	}
	return true
}

// addFlowtablesOf adds the changes of flowtables. A flowtable that loses a link is made
// again with its table: the flows of that link could come in by another one, and end with
// the flowtable.
func (c *change) addFlowtablesOf(have, want []Flowtable) bool {
	old := map[string]Flowtable{}
	for _, h := range have {
		old[h.Name] = h
	}
	for _, w := range want {
		h, there := old[w.Name]
		delete(old, w.Name)
		lost := func(link string) bool { return !slices.Contains(w.Links, link) }
		if h.Foreign != "" || slices.ContainsFunc(h.Links, lost) {
			return false
		}
		w.Links = slices.DeleteFunc(slices.Clone(w.Links), func(link string) bool { return slices.Contains(h.Links, link) })
		if !there || len(w.Links) > 0 {
			c.addFlowtables = append(c.addFlowtables, w)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		c.deleteFlowtables = append(c.deleteFlowtables, old[name])
	}
	return true
}

// without returns s with only those of its elements that o does not have.
func (s Set) without(o Set) Set {
	if n := len(s.Elements); n > 0 && n == len(o.Elements) && &s.Elements[0] == &o.Elements[0] {
		s.Elements = nil // the same list, which may be long
		return s
	}
	has := map[Element]bool{}
	for _, e := range o.Elements {
		has[e.masked()] = true
	}
	all := s.Elements
	s.Elements = nil
	for _, e := range all {
		if !has[e.masked()] {
			s.Elements = append(s.Elements, e)
		}
	}
	return s
}

func (e Element) masked() Element {
	e.Prefix = e.Prefix.Masked()
	return e
}

// Diff returns the script of the nft program that does what [Socket.Change] does, "" if the
// tables are equal.
func Diff(have, want Table) string {
	if have.Equal(want) {
		return ""
	}
	if c, ok := changeOf(have, want); ok {
		return c.script("inet " + want.Name + " ")
	}
	var b strings.Builder
	if !have.IsEmpty() {
		fmt.Fprintf(&b, "delete table inet %s\n", have.Name)
	}
	b.WriteString(want.String())
	return b.String()
}

// script returns the commands of nft for c. where is the family and the name of the table,
// with a space behind each.
func (c change) script(where string) string {
	var b strings.Builder
	line := func(words ...string) { b.WriteString(strings.Join(words, "") + "\n") }
	for _, k := range c.addChains {
		properties := ""
		if k.Hook != "" {
			properties = " { " + k.head() + " }"
		}
		line("add chain ", where, k.Name, properties)
	}
	for _, s := range c.addSets {
		kind, verdict := "set ", ""
		if s.IsMap {
			kind, verdict = "map ", " : verdict"
		}
		flags := ""
		if s.isInterval() {
			flags = " flags interval;"
		}
		line("add ", kind, where, s.Name, " { type ", s.keyText(), verdict, ";", flags, " }")
	}
	for _, f := range c.addFlowtables {
		devices := ""
		if len(f.Links) > 0 {
			devices = " devices = { " + strings.Join(f.Links, ", ") + " };"
		}
		line("add flowtable ", where, f.Name, " { hook ingress priority filter;", devices, " }")
	}
	for _, s := range c.deleteElements {
		line("delete element ", where, s.Name, " ", s.elementsText(false))
	}
	for _, s := range append(slices.Clone(c.addSets), c.addElements...) {
		if len(s.Elements) > 0 {
			line("add element ", where, s.Name, " ", s.elementsText(true))
		}
	}
	for _, k := range c.rules {
		if !slices.ContainsFunc(c.addChains, func(a Chain) bool { return a.Name == k.Name }) {
			line("flush chain ", where, k.Name)
		}
		for _, r := range k.Rules {
			line("add rule ", where, k.Name, " ", r.String())
		}
	}
	for _, k := range c.deleteChains {
		line("delete chain ", where, k.Name)
	}
	for _, s := range c.deleteSets {
		kind := "set "
		if s.IsMap {
			kind = "map "
		}
		line("delete ", kind, where, s.Name)
	}
	for _, f := range c.deleteFlowtables {
		line("delete flowtable ", where, f.Name)
	}
	return b.String()
}

// elementsText returns the elements of s as a list, with their verdicts or without.
func (s Set) elementsText(verdicts bool) string {
	texts := make([]string, len(s.Elements))
	for i, e := range s.Elements {
		if !verdicts {
			e.Chain = ""
		}
		texts[i] = s.elementText(e)
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

// Differ reports whether [Socket.Change] has anything to do. It takes lists of elements that
// both tables share for equal without looking at them.
func Differ(have, want Table) bool {
	c, ok := changeOf(have, want)
	return !ok && !have.Equal(want) || ok && (have.Orphan || c.any())
}

// any reports whether c changes anything.
func (c change) any() bool {
	return len(c.addChains)+len(c.addSets)+len(c.deleteElements)+len(c.addElements)+len(c.rules)+len(c.deleteChains)+len(c.deleteSets)+len(c.addFlowtables)+len(c.deleteFlowtables) > 0
}
