// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// difference is what has become of one part of the table.
type difference struct {
	// part is "table", "others" for what the table should not have, or the kind and
	// name of one of its sets and chains. There are few, whatever others do.
	part string
	text string
}

// The parts that have no name of their own.
const (
	partTable  = "table"
	partOthers = "others"
)

// parts and words take the differences apart; each part comes once.
func parts(all []difference) (parts []string) {
	for _, d := range all {
		if !slices.Contains(parts, d.part) {
			parts = append(parts, d.part)
		}
	}
	return parts
}

func words(all []difference) (words []string) {
	for _, d := range all {
		words = append(words, d.text)
	}
	return words
}

// differences says in words what has to be undone to make have equal to want. There
// is at least one if they are not equal.
func differences(have, want Ruleset) (all []difference) {
	switch {
	case have.Equal(want):
		return nil
	case have.empty():
		return []difference{{partTable, "table deleted"}}
	case want.empty():
		return []difference{{partTable, "table added"}}
	}
	for _, w := range want.sets {
		i := slices.IndexFunc(have.sets, func(s set) bool { return s.name == w.name })
		if i < 0 {
			all = append(all, difference{"set " + w.name, "set " + w.name + " deleted"})
		} else {
			all = append(all, w.differences(have.sets[i])...)
		}
	}
	for _, w := range want.chains {
		i := slices.IndexFunc(have.chains, func(c chain) bool { return c.name == w.name })
		if i < 0 {
			all = append(all, difference{"chain " + w.name, "chain " + w.name + " deleted"})
		} else {
			all = append(all, w.differences(have.chains[i])...)
		}
	}
	all = append(all, others(have, want)...)
	if len(all) == 0 {
		all = append(all, difference{partTable, "table changed"})
	}
	return all
}

// others are the sets and chains that want does not have, and flags of the table.
func others(have, want Ruleset) (all []difference) {
	for _, s := range have.sets {
		if !slices.ContainsFunc(want.sets, func(w set) bool { return w.name == s.name }) {
			all = append(all, difference{partOthers, "set " + s.name + " added"})
		}
	}
	for _, c := range have.chains {
		switch {
		case c.name == "":
			all = append(all, difference{partTable, c.odd})
		case !slices.ContainsFunc(want.chains, func(w chain) bool { return w.name == c.name }):
			all = append(all, difference{partOthers, "chain " + c.name + " added"})
		}
	}
	return all
}

// differences says what has become of s.
func (s set) differences(have set) (all []difference) {
	name := "set " + s.name
	if have.odd != s.odd {
		return []difference{{name, name + " " + have.odd}}
	}
	if gone := missing(s.prefixes, have.prefixes); len(gone) > 0 {
		all = append(all, difference{name, name + ": deleted " + some(gone, netip.Prefix.String)})
	}
	if added := missing(have.prefixes, s.prefixes); len(added) > 0 {
		all = append(all, difference{name, name + ": added " + some(added, netip.Prefix.String)})
	}
	return all
}

// differences says what has become of c.
func (c chain) differences(have chain) (all []difference) {
	name := "chain " + c.name
	switch {
	case have.odd != c.odd:
		all = append(all, difference{name, name + ": " + have.odd})
	case have.kind != c.kind || have.hook != c.hook || have.priority != c.priority:
		all = append(all, difference{name, fmt.Sprintf("%s: type %s hook %s priority %d", name, have.kind, have.hook, have.priority)})
	}
	before, after := texts(c.rules), texts(have.rules)
	gone, added := missing(before, after), missing(after, before)
	if len(gone) > 0 {
		all = append(all, difference{name, name + ": deleted " + some(gone, quote)})
	}
	if len(added) > 0 {
		all = append(all, difference{name, name + ": added " + some(added, quote)})
	}
	if len(gone) == 0 && len(added) == 0 && !slices.Equal(before, after) {
		all = append(all, difference{name, name + ": rules in another order"})
	}
	return all
}

func texts(rules []rule) []string {
	all := make([]string, len(rules))
	for i, r := range rules {
		all[i] = r.String()
	}
	return all
}

// missing returns what is in list and not in from, as often as it is there more.
func missing[T comparable](list, from []T) (all []T) {
	left := map[T]int{}
	for _, x := range from {
		left[x]++
	}
	for _, x := range list {
		if left[x]--; left[x] < 0 {
			all = append(all, x)
		}
	}
	return all
}

func quote(s string) string { return "rule `" + s + "`" }

// some writes the first of a list, and how many there are.
func some[T any](list []T, text func(T) string) string {
	const most = 3
	var words []string
	for _, x := range list[:min(len(list), most)] {
		words = append(words, text(x))
	}
	s := strings.Join(words, ", ")
	if len(list) > most {
		s += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return s
}
