// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Translation is what a [Ruleset] does to the source of packets from pods. It is read
// back from the rules, so that it tells what the kernel does, which may be less than
// what was applied.
type Translation struct {
	// Inside are the destinations for which sources are not translated.
	Inside []netip.Prefix
	// To is the source afterwards, and Link the link that a packet must leave by.
	// Without a rule that translates, To is the zero Addr.
	To   netip.Addr
	Link string
	// Mark is the bit that packets of flows to be translated get, so that they
	// leave by Link; 0 if they get none.
	Mark uint32
	// HostLinkPrefix is the beginning of a link's name: packets that come in by such
	// links get the mark.
	HostLinkPrefix string
	// Odd lists the parts of the table that this package never writes; their effect
	// on the translation is unknown.
	Odd []string
}

// Translation returns what r does to sources, and false if r has nothing to do with
// them.
func (r Ruleset) Translation() (Translation, bool) {
	var t Translation
	if r.table.Foreign != "" {
		t.Odd = append(t.Odd, r.table.Foreign)
	}
	for _, s := range r.table.Sets {
		if s.Name == insideSet {
			t.Inside = prefixesOf(s)
		}
		if s.Foreign != "" {
			t.Odd = append(t.Odd, "set "+s.Name+": "+s.Foreign)
		}
	}
	var decides, marks uint32
	for _, c := range r.table.Chains {
		if c.Foreign != "" {
			t.Odd = append(t.Odd, "chain "+c.Name+": "+c.Foreign)
		}
		for _, rule := range c.Rules {
			if rule.IsForeign() {
				t.Odd = append(t.Odd, rule.String())
				continue
			}
			if x, ok := find[nft.SourceNAT](rule); ok && !t.To.IsValid() {
				link, _ := find[nft.Link](rule)
				t.To, t.Link = x.To, link.Name
			}
			if _, ok := find[nft.DestinationNotIn](rule); ok {
				if set, ok := find[nft.SetCtMark](rule); ok {
					decides = set.Value
				}
			}
			// The rules for returns set marks for packets of every link.
			set, sets := find[nft.SetMark](rule)
			if link, ok := find[nft.Link](rule); ok && sets {
				marks = set.Value
				t.HostLinkPrefix = strings.TrimSuffix(link.Name, "*")
			}
		}
	}
	if decides == marks {
		t.Mark = marks
	}
	return t, t.To.IsValid() || decides != 0 || len(r.table.Sets) > 0 || len(t.Odd) > 0
}

// find returns the first statement of a rule that is a T.
func find[T nft.Statement](r nft.Rule) (found T, ok bool) {
	for _, s := range r.Statements {
		if found, ok = s.(T); ok {
			return found, true
		}
	}
	return found, false
}

func prefixesOf(s nft.Set) []netip.Prefix {
	var all []netip.Prefix
	for _, e := range s.Elements {
		all = append(all, e.Prefix)
	}
	return all
}
