// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// filtered is what a packet meets in our nftables table.
type filtered struct {
	t *tracer
	l *leg
	// checked and mapped report that a rule looked at the source, and for its ENI.
	checked, mapped bool
}

// prerouting goes through our nftables table. What comes from a pod must have its
// source looked at.
func (t *tracer) prerouting(l *leg) bool {
	f := &filtered{t: t, l: l}
	if !f.chain("prerouting", 0) {
		return false
	}
	switch {
	case isStrictLink(l.in) && !t.forgedRule(l):
		t.fault(FaultNoFilter, "no rule of priority %d drops what comes from %s with a source that is not the pod's", claims.PriorityForged, l.in)
	case !strings.HasPrefix(l.in, t.v.prefix()):
	case !f.checked:
		t.fault(FaultNoFilter, "nothing in the nftables table inet %s checks the source of packets from %s", netstate.FilterTable, l.in)
	case !f.mapped && t.v.layout() == datapath.Flat:
		t.fault(FaultNoFilter, "nothing in the nftables table inet %s looks for the ENI of packets from %s", netstate.FilterTable, l.in)
	}
	return true
}

// forgedRule reports whether the rule is there that checks the sources of a pod on
// a branch ENI under Strict.
func (t *tracer) forgedRule(l *leg) bool {
	return slices.ContainsFunc(t.v.Node.Rules, func(r netstate.Rule) bool {
		return claims.OwnedRule(r) && r.Priority == claims.PriorityForged && r.IIF == l.in && r.IPv6 == l.Src.Is6()
	})
}

// layout returns the layout of the node: what is desired or, where that is not
// known, what the node looks like.
func (v View) layout() datapath.Layout {
	if v.Desired != nil {
		return cmp.Or(v.Desired.Node.Layout, datapath.Flat)
	}
	flat := func(r netstate.Rule) bool {
		return claims.OwnedRule(r) && (r.Priority == claims.PriorityToPod && r.Table == claims.TablePods || r.Priority == claims.PriorityFromPod && r.Mask != 0)
	}
	inTable := func(r netstate.Route) bool { return r.Table == claims.TablePods && r.Protocol == claims.RouteProtocol }
	if slices.ContainsFunc(v.Node.Rules, flat) || slices.ContainsFunc(v.Node.Routes, inTable) {
		return datapath.Flat
	}
	return datapath.PerPod
}

// maxJumps is more than the chains of our table can nest.
const maxJumps = 8

// chain goes through the rules of a chain and reports whether the packet goes on.
func (f *filtered) chain(name string, depth int) bool {
	for _, c := range f.t.v.Node.Filter.Chains {
		if c.Name != name || depth > maxJumps {
			continue
		}
		for _, rule := range c.Rules {
			verdict := f.rule(name, rule)
			next, jumps := strings.CutPrefix(verdict, "jump ")
			switch {
			case verdict == "stop":
				return false
			case verdict == "return" || verdict == "accept":
				return true
			case jumps && !f.chain(next, depth+1):
				return false
			}
		}
	}
	return true
}

// rule carries out one rule for the packet and returns what follows: "" goes on.
func (f *filtered) rule(chain, rule string) string {
	l, where := f.l, "nft "+chain
	text, applies := f.matches(rule)
	switch {
	case !applies:
		return ""
	case strings.HasPrefix(text, "fib saddr . iif oif missing"):
		f.checked = true
		return f.source(where, rule)
	case strings.HasPrefix(text, "vmap @"):
		f.mapped = true
		return f.lookup(where, rule)
	case strings.HasPrefix(text, "meta mark set "):
		var and, or uint32
		if _, err := fmt.Sscanf(text, "meta mark set meta mark & 0x%x | 0x%x", &and, &or); err == nil {
			l.Mark = l.Mark&and | or
			l.hop(where, fmt.Sprintf("sets the mark %#x", l.Mark), rule)
			return ""
		}
	case strings.HasPrefix(text, "jump "), text == "return", text == "accept":
		return text
	case text == "drop", text == "reject":
		l.hop(where, map[string]string{"drop": "drops it", "reject": "refuses it"}[text], rule)
		if l.Dst == claims.Metadata4 || l.Dst == claims.Metadata6 {
			f.t.fault(FaultRefused, "pods may not use the metadata service %s here", l.Dst)
		} else {
			f.t.fault(FaultDropped, "rule %q in chain %s of table inet %s stops it", rule, chain, netstate.FilterTable)
		}
		return "stop"
	}
	f.t.note(NoteFilter, "what rule %q in chain %s of table inet %s does", rule, chain, netstate.FilterTable)
	return ""
}

// matches takes the conditions off a rule that are about what the packet is. It
// returns what is left of the rule and whether all of them apply.
func (f *filtered) matches(rule string) (rest string, applies bool) {
	l, ip := f.l, netstate.IpKeyword(f.l.Src.Is6())
	words := strings.Fields(rule)
	for len(words) >= 2 {
		switch key := words[0]; {
		case key == "iifname":
			name, wild := strings.CutSuffix(strings.Trim(words[1], `"`), "*")
			if l.in != name && !(wild && strings.HasPrefix(l.in, name)) {
				return "", false
			}
			words = words[2:]
		case (key == "ip" || key == "ip6") && words[1] == "daddr" && len(words) > 2:
			a, err := netip.ParseAddr(words[2])
			if key != ip || err != nil || a != l.Dst {
				return "", false
			}
			words = words[3:]
		case (key == "ip" || key == "ip6") && words[1] == "saddr":
			if key != ip {
				return "", false
			}
			words = words[2:]
		case strings.HasPrefix(rule, "icmpv6 type nd-router-advert"):
			return "", false // no packet that anybody traces
		default:
			return strings.Join(words, " "), true
		}
	}
	return strings.Join(words, " "), true
}

// source checks that the way back to the source is the link that the packet came
// by.
func (f *filtered) source(where, rule string) string {
	t, l := f.t, f.l
	v := t.v.Node.Lookup(netstate.Query{Src: l.Dst, Dst: l.Src, Proto: l.Proto})
	t.unjudged(v)
	if v.LeavesBy(l.in) {
		l.hop(where, "accepts the source", "the way back is "+v.Route.String())
		return ""
	}
	l.hop(where, "drops it", rule)
	t.noWayTo(l.Src, l.in, l.in, v)
	return "stop"
}

// lookup finds the ENI's chain in the map of sources.
func (f *filtered) lookup(where, rule string) string {
	for _, s := range f.t.v.Node.Filter.Sources {
		if s.Prefix.Contains(f.l.Src) {
			f.l.hop(where, "goes to chain "+s.Chain, s.String())
			return "jump " + s.Chain
		}
	}
	f.l.hop(where, "sets no mark", rule+" has no element for "+f.l.Src.String())
	return ""
}
