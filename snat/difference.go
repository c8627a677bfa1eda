// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// difference is a change of one part of the table by another program.
type difference struct {
	// part is "table", "others" for additions to the table, or the kind and name of
	// one of its sets and chains. There are few parts, whatever other programs add.
	part string
	text string
}

// The parts that have no name of their own.
const (
	partTable  = "table"
	partOthers = "others"
)

// partsOf returns the parts of the differences, each once.
func partsOf(all []difference) (parts []string) {
	for _, d := range all {
		if !slices.Contains(parts, d.part) {
			parts = append(parts, d.part)
		}
	}
	return parts
}

// textsOf returns the texts of the differences.
func textsOf(all []difference) (texts []string) {
	for _, d := range all {
		texts = append(texts, d.text)
	}
	return texts
}

// differences returns what distinguishes have from want, in words. There is at least
// one difference if they are not equal.
func differences(have, want nft.Table) (all []difference) {
	switch {
	case have.Equal(want):
		return nil
	case have.IsEmpty():
		return []difference{{partTable, "table deleted"}}
	case want.IsEmpty():
		return []difference{{partTable, "table added"}}
	}
	for _, w := range want.Sets {
		i := slices.IndexFunc(have.Sets, func(s nft.Set) bool { return s.Name == w.Name })
		if i < 0 {
			all = append(all, difference{"set " + w.Name, "set " + w.Name + " deleted"})
		} else {
			all = append(all, setDifferences(have.Sets[i], w)...)
		}
	}
	for _, w := range want.Chains {
		i := slices.IndexFunc(have.Chains, func(c nft.Chain) bool { return c.Name == w.Name })
		if i < 0 {
			all = append(all, difference{"chain " + w.Name, "chain " + w.Name + " deleted"})
		} else {
			all = append(all, chainDifferences(have.Chains[i], w)...)
		}
	}
	all = append(all, additions(have, want)...)
	if len(all) == 0 {
		all = append(all, difference{partTable, "table changed"})
	}
	return all
}

// additions returns the sets and chains that only have contains, and its flags.
func additions(have, want nft.Table) (all []difference) {
	for _, s := range have.Sets {
		if !slices.ContainsFunc(want.Sets, func(w nft.Set) bool { return w.Name == s.Name }) {
			all = append(all, difference{partOthers, "set " + s.Name + " added"})
		}
	}
	for _, c := range have.Chains {
		if !slices.ContainsFunc(want.Chains, func(w nft.Chain) bool { return w.Name == c.Name }) {
			all = append(all, difference{partOthers, "chain " + c.Name + " added"})
		}
	}
	if have.Foreign != want.Foreign {
		all = append(all, difference{partTable, have.Foreign})
	}
	return all
}

// setDifferences returns the differences between two sets of the same name.
func setDifferences(have, want nft.Set) (all []difference) {
	name := "set " + want.Name
	if have.Foreign != want.Foreign {
		return []difference{{name, name + " " + have.Foreign}}
	}
	wanted, present := prefixesOf(want), prefixesOf(have)
	if deleted := missing(wanted, present); len(deleted) > 0 {
		all = append(all, difference{name, name + ": deleted " + list(deleted, netip.Prefix.String)})
	}
	if added := missing(present, wanted); len(added) > 0 {
		all = append(all, difference{name, name + ": added " + list(added, netip.Prefix.String)})
	}
	return all
}

// chainDifferences returns the differences between two chains of the same name.
func chainDifferences(have, want nft.Chain) (all []difference) {
	name := "chain " + want.Name
	switch {
	case have.Foreign != want.Foreign:
		all = append(all, difference{name, name + ": " + have.Foreign})
	case have.Type != want.Type || have.Hook != want.Hook || have.Priority != want.Priority:
		all = append(all, difference{name, fmt.Sprintf("%s: type %s hook %s priority %d", name, have.Type, have.Hook, have.Priority)})
	}
	wanted, present := ruleTexts(want.Rules), ruleTexts(have.Rules)
	deleted, added := missing(wanted, present), missing(present, wanted)
	if len(deleted) > 0 {
		all = append(all, difference{name, name + ": deleted " + list(deleted, quote)})
	}
	if len(added) > 0 {
		all = append(all, difference{name, name + ": added " + list(added, quote)})
	}
	if len(deleted) == 0 && len(added) == 0 && !slices.Equal(wanted, present) {
		all = append(all, difference{name, name + ": rules in another order"})
	}
	return all
}

func ruleTexts(rules []nft.Rule) []string {
	all := make([]string, len(rules))
	for i, r := range rules {
		all[i] = r.String()
	}
	return all
}

// missing returns the items that items has more often than other, as often as that.
func missing[T comparable](items, other []T) (all []T) {
	left := map[T]int{}
	for _, x := range other {
		left[x]++
	}
	for _, x := range items {
		if left[x]--; left[x] < 0 {
			all = append(all, x)
		}
	}
	return all
}

func quote(s string) string { return "rule `" + s + "`" }

// list writes the first items and the number of the others.
func list[T any](items []T, text func(T) string) string {
	const most = 3
	var texts []string
	for _, x := range items[:min(len(items), most)] {
		texts = append(texts, text(x))
	}
	s := strings.Join(texts, ", ")
	if len(items) > most {
		s += fmt.Sprintf(" and %d more", len(items)-most)
	}
	return s
}
