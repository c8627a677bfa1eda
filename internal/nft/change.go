// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"maps"
	"slices"
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
	addChains      []Chain // without their rules
	addSets        []Set   // with their elements
	deleteElements []Set
	addElements    []Set
	rules          []Chain // all rules of these chains are replaced
	deleteChains   []Chain // rules has them too, without rules
	deleteSets     []Set
}

// changeOf returns the change from have to want. It returns false if there is none: one of
// the tables is absent, a base chain or a set has other properties than it needs, or have
// has something that this package cannot express.
func changeOf(have, want Table) (c change, ok bool) {
	if have.IsEmpty() || want.IsEmpty() || have.Foreign != "" || have.Owned != want.Owned {
		return c, false
	}
	return c, c.addChainsOf(have.Chains, want.Chains) && c.addSetsOf(have.Sets, want.Sets)
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
	return slices.EqualFunc(a, b, func(a, b Rule) bool { return a.String() == b.String() })
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
		if s.IsMap { // else the elements end with the set, which is much faster
			c.deleteElements = append(c.deleteElements, s)
		}
		c.deleteSets = append(c.deleteSets, s)
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
