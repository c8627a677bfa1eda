// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Query describes a packet for [State.Lookup].
type Query struct {
	Src, Dst netip.Addr
	Mark     uint32
	// IIF is the link that the packet comes in by. It is empty for packets that the
	// node itself sends; rules match those as "lo".
	IIF string
	// Proto is the number of the transport protocol; 0 is unknown.
	Proto            int
	SrcPort, DstPort uint16
}

// Verdict is the outcome of a lookup.
type Verdict struct {
	// Rule and Route decided, if Found.
	Rule  Rule
	Route Route
	// Local says that the destination is the node itself.
	Local bool
	// Found says that a rule or a route decided.
	Found bool
	// Unjudged are rules that may decide instead: a State does not hold what they
	// depend on.
	Unjudged []Rule
}

func (v Verdict) String() string {
	switch {
	case v.Local:
		return "to this node itself"
	case !v.Found:
		return "no route"
	case v.Route == Route{Type: v.Route.Type}:
		return fmt.Sprintf("rule %q refuses", v.Rule)
	}
	return fmt.Sprintf("rule %q finds route %q", v.Rule, v.Route)
}

// Refuses reports whether the rule or route that decided drops or rejects packets.
func (v Verdict) Refuses() bool { return v.Route.Type != "" }

// LeavesBy reports whether the packet leaves by the link of that name.
func (v Verdict) LeavesBy(link string) bool {
	return v.Found && !v.Local && !v.Refuses() && v.Route.Link == link
}

// Lookup finds the route of a packet through rules and tables, as the kernel does. A
// State without rules has the kernel's own, see [BuiltinRules].
func (s State) Lookup(q Query) Verdict {
	var v Verdict
	rules := s.RulesFor(FamilyOf(q.Dst))
	for i, r := range rules {
		applies, sure := r.Applies(q)
		if !sure {
			v.Unjudged = append(v.Unjudged, r)
		}
		if applies && s.decide(&v, r, q.Dst) {
			v.Unjudged = append(v.Unjudged, s.rivals(v, rules[i+1:], q)...)
			return v
		}
	}
	return v
}

// rivals returns the rules of the same priority as the one that decided that would
// decide differently. The kernel evaluates the oldest of them first, and a State does
// not record their age.
func (s State) rivals(v Verdict, after []Rule, q Query) []Rule {
	var rivals []Rule
	for _, r := range after {
		if r.Priority != v.Rule.Priority {
			break
		}
		var other Verdict
		applies, sure := r.Applies(q)
		if !sure || applies && s.decide(&other, r, q.Dst) && (other.Local != v.Local || other.Route != v.Route) {
			rivals = append(rivals, r)
		}
	}
	return rivals
}

// decide applies a rule that matches. It reports false if the lookup continues with the
// next rule.
func (s State) decide(v *Verdict, r Rule, dst netip.Addr) bool {
	if kind, ok := ruleActions[r.Other]; ok {
		v.Rule, v.Route, v.Found = r, Route{Type: kind}, true
		return true
	}
	if r.Table == TableLocal {
		if !s.HasAddress(dst) {
			return false
		}
		v.Rule, v.Local, v.Found = r, true, true
		return true
	}
	route, ok := s.LongestMatch(r.Table, dst)
	if n, suppresses := r.suppresses(); !ok || suppresses && route.Dst.Bits() <= n {
		return false
	}
	v.Rule, v.Route, v.Found = r, route, true
	return true
}

// RulesFor returns the rules of one family in the order in which the kernel evaluates
// them.
func (s State) RulesFor(f Family) []Rule {
	var rules []Rule
	for _, r := range s.Rules {
		if r.IPv6 == f.Is6() {
			rules = append(rules, r)
		}
	}
	if len(s.Rules) == 0 {
		rules = BuiltinRules(f)
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return a.Priority - b.Priority })
	return rules
}

// Route tables that every namespace has, see ip-route(8).
const (
	// TableLocal holds the namespace's own addresses.
	TableLocal = 255
	// TableMain is the table that ip-route(8) uses by default.
	TableMain = 254
	// TableDefault is the last table that the kernel looks in.
	TableDefault = 253
)

// BuiltinRules returns the rules of one family that a new namespace has.
func BuiltinRules(f Family) []Rule {
	return []Rule{
		{IPv6: f.Is6(), Priority: 0, Table: TableLocal},
		{IPv6: f.Is6(), Priority: 32766, Table: TableMain},
		{IPv6: f.Is6(), Priority: 32767, Table: TableDefault},
	}
}

// Texts of Rule.Other that Lookup understands.
const (
	ruleNot      = "not"
	ruleNop      = "action 3"
	ruleSuppress = "suppress_prefixlength "
)

// ruleActions translates the actions of rules that refuse packets (FR_ACT_… in
// linux/fib_rules.h) to types of routes.
var ruleActions = map[string]string{"action 6": "blackhole", "action 7": "unreachable", "action 8": "prohibit"}

// Applies reports whether r matches q. It reports sure false if that depends on
// something that neither the State nor q contains.
func (r Rule) Applies(q Query) (applies, sure bool) {
	if r.IPv6 != q.Dst.Is6() || r.Other == ruleNop {
		return false, true
	}
	fits := (!r.From.IsValid() || r.From.Contains(q.Src)) &&
		(!r.To.IsValid() || r.To.Contains(q.Dst)) &&
		q.Mark&r.Mask == r.Mark&r.Mask &&
		(r.IIF == "" || r.IIF == q.IIF || r.IIF == "lo" && q.IIF == "")
	known := r.IPProto == 0 || q.Proto != 0
	fits = fits && (r.IPProto == 0 || !known || r.IPProto == q.Proto)
	_, refuses := ruleActions[r.Other]
	_, suppresses := r.suppresses()
	switch {
	case fits && !known:
		return false, false
	case r.Other == ruleNot:
		return !fits && r.Table != 0, true
	case refuses:
		return fits, true
	case r.Other == "" || suppresses:
		return fits && r.Table != 0, true
	}
	return false, !fits && !strings.HasPrefix(r.Other, ruleNot+" ")
}

// suppresses returns the prefix length up to which r ignores routes
// (suppress_prefixlength), and whether it has one.
func (r Rule) suppresses() (int, bool) {
	text, ok := strings.CutPrefix(r.Other, ruleSuppress)
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

// HasAddress reports whether a link has the address.
func (s State) HasAddress(a netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(x Address) bool { return x.Prefix.Addr() == a })
}

// Holder returns the name of the link that has the address, empty if there is none.
func (s State) Holder(a netip.Addr) string {
	for _, x := range s.Addresses {
		if x.Prefix.Addr() == a {
			return x.Link
		}
	}
	return ""
}

// LongestMatch returns the route of a table with the longest prefix that contains
// dst; among equal prefixes, the one with the lowest metric. It reports false if there
// is none, or if a throw route ends the lookup in this table.
func (s State) LongestMatch(table int, dst netip.Addr) (Route, bool) {
	var best Route
	found := false
	for _, r := range s.Routes {
		if r.Table != table || !r.Dst.Contains(dst) {
			continue
		}
		if !found || r.Dst.Bits() > best.Dst.Bits() || r.Dst.Bits() == best.Dst.Bits() && r.metric() < best.metric() {
			best, found = r, true
		}
	}
	return best, found && best.Type != "throw"
}

// metric returns the metric that the kernel compares.
func (r Route) metric() int {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		return DefaultMetric6
	}
	return r.Metric
}

// DefaultMetric6 is the metric that the kernel gives to an IPv6 route without one.
const DefaultMetric6 = 1024

// Link returns the link of that name.
func (s State) Link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Neighbor returns the permanent entry for an address on a link.
func (s State) Neighbor(link string, a netip.Addr) (Neighbor, bool) {
	for _, n := range s.Neighbors {
		if n.Link == link && n.Addr == a {
			return n, true
		}
	}
	return Neighbor{}, false
}

// Sysctl returns the value of a setting, empty if s does not contain it.
func (s State) Sysctl(key string) string {
	for _, x := range s.Sysctls {
		if x.Key == key {
			return x.Value
		}
	}
	return ""
}
