// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Query is what the kernel's route lookup goes by. Without iif the node itself
// asks, which rules know as lo. A proto of 0 is not known.
type Query struct {
	Src, Dst     netip.Addr
	Mark         uint32
	IIF          string
	Proto        int
	Sport, Dport uint16
}

// Verdict is the answer: the rule and the route that decided. Local is the
// node itself.
type Verdict struct {
	Rule  Rule
	Route Route
	Local bool
	Found bool
	// Unjudged are rules that may decide instead.
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

// Refuses reports whether the rule or the route that decided sends packets
// nowhere.
func (v Verdict) Refuses() bool { return v.Route.Type != "" }

// by reports whether the packet leaves by a link.
func (v Verdict) LeavesBy(link string) bool {
	return v.Found && !v.Local && !v.Refuses() && v.Route.Link == link
}

// Lookup goes through rules and tables as the kernel does.
func (s State) Lookup(q Query) Verdict {
	var v Verdict
	rules := s.RulesFor(q.Dst.Is6())
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

// rivals returns the rules of the same priority as the one that decided which
// would decide otherwise: of those the kernel takes the older, and a State does not
// tell which that is.
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

// decide looks into the table of a rule that applies.
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

// RulesFor returns the rules of one family in the kernel's order.
func (s State) RulesFor(ipv6 bool) []Rule {
	var rules []Rule
	for _, r := range s.Rules {
		if r.IPv6 == ipv6 {
			rules = append(rules, r)
		}
	}
	if len(s.Rules) == 0 {
		rules = BuiltinRules(ipv6)
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return a.Priority - b.Priority })
	return rules
}

// The kernel's own route tables; see rt_tables in ip-route(8).
const (
	// TableMain is the table that every lookup ends in; it serves the primary ENI.
	TableMain    = 254
	TableLocal   = 255
	TableDefault = 253
)

// BuiltinRules are those of a namespace that nobody has changed, for a State
// that was made by hand.
func BuiltinRules(ipv6 bool) []Rule {
	return []Rule{
		{IPv6: ipv6, Priority: 0, Table: TableLocal},
		{IPv6: ipv6, Priority: 32766, Table: TableMain},
		{IPv6: ipv6, Priority: 32767, Table: TableDefault},
	}
}

// The words of Rule.Other that can be judged.
const (
	ruleNot      = "not"
	ruleNop      = "action 3"
	ruleSuppress = "suppress_prefixlength "
)

// ruleActions are rules that refuse, by FR_ACT_… of linux/fib_rules.h.
var ruleActions = map[string]string{"action 6": "blackhole", "action 7": "unreachable", "action 8": "prohibit"}

// judge reports whether r applies to q. It is not sure where that depends on what
// a State or q does not tell.
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

// suppresses returns the length of prefixes up to which r takes no route.
func (r Rule) suppresses() (int, bool) {
	text, ok := strings.CutPrefix(r.Other, ruleSuppress)
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

func (s State) HasAddress(a netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(x Address) bool { return x.Prefix.Addr() == a })
}

// Holder returns the link that has an address.
func (s State) Holder(a netip.Addr) string {
	for _, x := range s.Addresses {
		if x.Prefix.Addr() == a {
			return x.Link
		}
	}
	return ""
}

// longest returns the route of a table with the longest prefix that contains
// dst, and of those the one with the lowest metric. A throw route ends the table.
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

// DefaultMetric6 is what the kernel gives an IPv6 route that comes without one.
const DefaultMetric6 = 1024

func (s State) Link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

func (s State) Neighbor(link string, a netip.Addr) (Neighbor, bool) {
	for _, n := range s.Neighbors {
		if n.Link == link && n.Addr == a {
			return n, true
		}
	}
	return Neighbor{}, false
}

func (s State) Sysctl(key string) string {
	for _, x := range s.Sysctls {
		if x.Key == key {
			return x.Value
		}
	}
	return ""
}

// FilterTable is the name of our nftables table, of family inet.
const FilterTable = "vpcnet"
