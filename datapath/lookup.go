// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
)

// query is what the kernel's route lookup goes by.
type query struct {
	src, dst netip.Addr
	mark     uint32
	iif      string
}

// verdict is the answer: the rule and the route that decided. Local is the
// node itself.
type verdict struct {
	rule  Rule
	route Route
	local bool
	found bool
}

func (v verdict) String() string {
	switch {
	case v.local:
		return "to this node itself"
	case !v.found:
		return "no route"
	}
	return fmt.Sprintf("rule %q finds route %q", v.rule, v.route)
}

// lookup goes through rules and tables as the kernel does.
func (s State) lookup(q query) verdict {
	rules := slices.Clone(s.Rules)
	if len(rules) == 0 {
		rules = builtinRules(q.dst.Is6())
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return a.Priority - b.Priority })
	for _, r := range rules {
		if !r.matches(q) {
			continue
		}
		if r.Table == tableLocal {
			if s.hasAddress(q.dst) {
				return verdict{rule: r, local: true, found: true}
			}
			continue
		}
		if route, ok := s.longest(r.Table, q.dst); ok {
			return verdict{rule: r, route: route, found: true}
		}
	}
	return verdict{}
}

const (
	tableLocal   = 255
	tableDefault = 253
)

// builtinRules are those of a namespace that nobody has changed, for a State
// that was made by hand.
func builtinRules(ipv6 bool) []Rule {
	return []Rule{
		{IPv6: ipv6, Priority: 0, Table: tableLocal},
		{IPv6: ipv6, Priority: 32766, Table: TableMain},
		{IPv6: ipv6, Priority: 32767, Table: tableDefault},
	}
}

// matches reports whether r applies to q. A rule with selectors that State
// cannot express counts as not matching.
func (r Rule) matches(q query) bool {
	return r.Other == "" && r.IPv6 == q.dst.Is6() && r.Table != 0 &&
		(!r.From.IsValid() || r.From.Contains(q.src)) &&
		(!r.To.IsValid() || r.To.Contains(q.dst)) &&
		q.mark&r.Mask == r.Mark&r.Mask &&
		(r.IIF == "" || r.IIF == q.iif)
}

func (s State) hasAddress(a netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(x Address) bool { return x.Prefix.Addr() == a })
}

// longest returns the route of a table with the longest prefix that contains
// dst, and of those the one with the lowest metric. A throw route ends the table.
func (s State) longest(table int, dst netip.Addr) (Route, bool) {
	var best Route
	found := false
	for _, r := range s.Routes {
		if r.Table != table || !r.Dst.Contains(dst) {
			continue
		}
		if !found || r.Dst.Bits() > best.Dst.Bits() || r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best, found = r, true
		}
	}
	return best, found && best.Type != "throw"
}

func (s State) link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

func (s State) neighbor(link string, a netip.Addr) (Neighbor, bool) {
	for _, n := range s.Neighbors {
		if n.Link == link && n.Addr == a {
			return n, true
		}
	}
	return Neighbor{}, false
}

func (s State) sysctl(key string) string {
	for _, x := range s.Sysctls {
		if x.Key == key {
			return x.Value
		}
	}
	return ""
}
