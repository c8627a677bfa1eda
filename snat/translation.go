// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"slices"
	"strings"
)

// Translation is what a [Ruleset] does to the source of what pods send, read
// back from its rules: what is in the kernel may be less than what was wanted.
type Translation struct {
	// Inside are the destinations that sources are not translated for.
	Inside []netip.Prefix
	// To is the source afterwards, and Link the link that a packet must leave by.
	// Without a rule that translates, To is the zero Addr.
	To   netip.Addr
	Link string
	// Mark is the bit that packets of flows to be translated get, so that they
	// leave by Link; 0 if they get none.
	Mark uint32
	// HostLinkPrefix begins the names of the links whose packets get the mark.
	HostLinkPrefix string
	// Odd lists the rules that this package never writes, and whose part in it is
	// unknown.
	Odd []string
}

// Translation returns what r does to sources, and false if it has nothing to do
// with them.
func (r Ruleset) Translation() (Translation, bool) {
	var t Translation
	for _, s := range r.sets {
		if s.name == insideSet {
			t.Inside = s.prefixes
		}
		if s.odd != "" {
			t.Odd = append(t.Odd, "set "+s.name+": "+s.odd)
		}
	}
	var decides, marks uint32
	for _, c := range r.chains {
		if c.odd != "" {
			t.Odd = append(t.Odd, strings.TrimSpace("chain "+c.name)+": "+c.odd)
		}
		for _, rule := range c.rules {
			if slices.ContainsFunc(rule.stmts, func(s stmt) bool { _, odd := s.(foreign); return odd }) {
				t.Odd = append(t.Odd, rule.String())
				continue
			}
			if x, ok := find[translate](rule); ok && !t.To.IsValid() {
				link, _ := find[linkName](rule)
				t.To, t.Link = x.to, link.name
			}
			if _, ok := find[outside](rule); ok {
				if set, ok := find[setCtMark](rule); ok {
					decides = set.bit
				}
			}
			if set, ok := find[setMark](rule); ok {
				marks = set.bit
				link, _ := find[linkName](rule)
				t.HostLinkPrefix = strings.TrimSuffix(link.name, "*")
			}
		}
	}
	if decides == marks {
		t.Mark = marks
	}
	return t, t.To.IsValid() || decides != 0 || len(r.sets) > 0 || len(t.Odd) > 0
}

// find returns the first part of a rule that is a T.
func find[T stmt](r rule) (found T, ok bool) {
	for _, s := range r.stmts {
		if found, ok = s.(T); ok {
			return found, true
		}
	}
	return found, false
}
