// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// query is what the kernel's route lookup goes by. Without iif the node itself
// asks, which rules know as lo. A proto of 0 is not known.
type query struct {
	src, dst     netip.Addr
	mark         uint32
	iif          string
	proto        int
	sport, dport uint16
}

// verdict is the answer: the rule and the route that decided. Local is the
// node itself.
type verdict struct {
	rule  Rule
	route Route
	local bool
	found bool
	// unjudged are rules that may decide instead.
	unjudged []Rule
}

func (v verdict) String() string {
	switch {
	case v.local:
		return "to this node itself"
	case !v.found:
		return "no route"
	case v.route == Route{Type: v.route.Type}:
		return fmt.Sprintf("rule %q refuses", v.rule)
	}
	return fmt.Sprintf("rule %q finds route %q", v.rule, v.route)
}

// refuses reports whether the rule or the route that decided sends packets
// nowhere.
func (v verdict) refuses() bool { return v.route.Type != "" }

// held reports whether the node refuses a packet because no pod has the address.
func (v verdict) held() bool { return v.refuses() && v.route.Table == TableHeld }

// by reports whether the packet leaves by a link.
func (v verdict) by(link string) bool {
	return v.found && !v.local && !v.refuses() && v.route.Link == link
}

// lookup goes through rules and tables as the kernel does.
func (s State) lookup(q query) verdict {
	var v verdict
	rules := s.rulesFor(q.dst.Is6())
	for i, r := range rules {
		applies, sure := r.judge(q)
		if !sure {
			v.unjudged = append(v.unjudged, r)
		}
		if applies && s.decide(&v, r, q.dst) {
			v.unjudged = append(v.unjudged, s.rivals(v, rules[i+1:], q)...)
			return v
		}
	}
	return v
}

// rivals returns the rules of the same priority as the one that decided which
// would decide otherwise: of those the kernel takes the older, and a State does not
// tell which that is.
func (s State) rivals(v verdict, after []Rule, q query) []Rule {
	var rivals []Rule
	for _, r := range after {
		if r.Priority != v.rule.Priority {
			break
		}
		var other verdict
		applies, sure := r.judge(q)
		if !sure || applies && s.decide(&other, r, q.dst) && (other.local != v.local || other.route != v.route) {
			rivals = append(rivals, r)
		}
	}
	return rivals
}

// decide looks into the table of a rule that applies.
func (s State) decide(v *verdict, r Rule, dst netip.Addr) bool {
	if kind, ok := ruleActions[r.Other]; ok {
		v.rule, v.route, v.found = r, Route{Type: kind}, true
		return true
	}
	if r.Table == tableLocal {
		if !s.hasAddress(dst) {
			return false
		}
		v.rule, v.local, v.found = r, true, true
		return true
	}
	route, ok := s.longest(r.Table, dst)
	if n, suppresses := r.suppresses(); !ok || suppresses && route.Dst.Bits() <= n {
		return false
	}
	v.rule, v.route, v.found = r, route, true
	return true
}

// rulesFor returns the rules of one family in the kernel's order.
func (s State) rulesFor(ipv6 bool) []Rule {
	var rules []Rule
	for _, r := range s.Rules {
		if r.IPv6 == ipv6 {
			rules = append(rules, r)
		}
	}
	if len(s.Rules) == 0 {
		rules = builtinRules(ipv6)
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return a.Priority - b.Priority })
	return rules
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
func (r Rule) judge(q query) (applies, sure bool) {
	if r.IPv6 != q.dst.Is6() || r.Other == ruleNop {
		return false, true
	}
	fits := (!r.From.IsValid() || r.From.Contains(q.src)) &&
		(!r.To.IsValid() || r.To.Contains(q.dst)) &&
		q.mark&r.Mask == r.Mark&r.Mask &&
		(r.IIF == "" || r.IIF == q.iif || r.IIF == "lo" && q.iif == "")
	known := r.IPProto == 0 || q.proto != 0
	fits = fits && (r.IPProto == 0 || !known || r.IPProto == q.proto)
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

func (s State) hasAddress(a netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(x Address) bool { return x.Prefix.Addr() == a })
}

// holder returns the link that has an address.
func (s State) holder(a netip.Addr) string {
	for _, x := range s.Addresses {
		if x.Prefix.Addr() == a {
			return x.Link
		}
	}
	return ""
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
		if !found || r.Dst.Bits() > best.Dst.Bits() || r.Dst.Bits() == best.Dst.Bits() && r.metric() < best.metric() {
			best, found = r, true
		}
	}
	return best, found && best.Type != "throw"
}

// metric returns the metric that the kernel compares.
func (r Route) metric() int {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		return defaultMetric6
	}
	return r.Metric
}

// defaultMetric6 is what the kernel gives an IPv6 route that comes without one.
const defaultMetric6 = 1024

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
