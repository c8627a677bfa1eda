// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
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
	case !t.v.isCheckedLink(l.in):
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
			switch verdict := f.rule(name, rule).(type) {
			case nft.Drop:
				return false
			case nft.Return, nft.Accept:
				return true
			case nft.Jump:
				if !f.chain(verdict.Chain, depth+1) {
					return false
				}
			}
		}
	}
	return true
}

// rule carries out one rule for the packet. It returns the verdict: Accept, Drop, Jump
// or Return, nil if the packet goes on with the next rule.
func (f *filtered) rule(chain string, rule netstate.FilterRule) nft.Statement {
	l, where := f.l, "nft "+chain
	for _, s := range rule.Statements {
		switch s := s.(type) {
		case nft.Link, nft.Destination, nft.RouterAdvert:
			applies, known := f.matches(s)
			if !known {
				f.unknown(chain, rule)
				return nil
			}
			if !applies {
				return nil
			}
		case nft.NoReverseRoute:
			f.checked = true
			return f.source(where, rule)
		case nft.SourceMap:
			if s.Family != nft.FamilyOf(l.Src) {
				return nil
			}
			f.mapped = true
			return f.lookup(where, rule)
		case nft.SetMark:
			l.Mark = l.Mark&^s.Mask | s.Value
			l.hop(where, fmt.Sprintf("sets the mark %#x", l.Mark), rule.String())
		case nft.Counter:
		case nft.Jump, nft.Return, nft.Accept:
			return s
		case nft.Drop:
			return f.stop(chain, "drops it", rule)
		case nft.Reject:
			return f.stop(chain, "refuses it", rule)
		default:
			f.unknown(chain, rule)
			return nil
		}
	}
	return nil
}

// unknown notes a rule that is not judged.
func (f *filtered) unknown(chain string, rule netstate.FilterRule) {
	f.t.note(NoteFilter, "what rule %q in chain %s of table inet %s does", rule, chain, netstate.FilterTable)
}

// stop ends the way of the packet at a rule.
func (f *filtered) stop(chain, what string, rule netstate.FilterRule) nft.Statement {
	l := f.l
	l.hop("nft "+chain, what, rule.String())
	if l.Dst == claims.Metadata4 || l.Dst == claims.Metadata6 {
		f.t.fault(FaultRefused, "pods may not use the metadata service %s here", l.Dst)
	} else {
		f.t.fault(FaultDropped, "rule %q in chain %s of table inet %s stops it", rule, chain, netstate.FilterTable)
	}
	return nft.Drop{}
}

// matches reports whether a match applies to the packet, and whether that is known.
func (f *filtered) matches(s nft.Statement) (applies, known bool) {
	switch s := s.(type) {
	case nft.Link:
		name, isPrefix := strings.CutSuffix(s.Name, "*")
		return f.l.in == name || isPrefix && strings.HasPrefix(f.l.in, name), !s.Out
	case nft.Destination:
		return s.Addr == f.l.Dst, true
	case nft.RouterAdvert:
		return false, true // a traced packet is never one
	}
	return false, false
}

// source checks that the way back to the source is the link that the packet came
// by.
func (f *filtered) source(where string, rule netstate.FilterRule) nft.Statement {
	t, l := f.t, f.l
	v := t.v.Node.Lookup(netstate.Query{Src: l.Dst, Dst: l.Src, Proto: l.Proto})
	t.unjudged(v)
	if v.LeavesBy(l.in) {
		l.hop(where, "accepts the source", "the way back is "+v.Route.String())
		return nil
	}
	l.hop(where, "drops it", rule.String())
	t.noWayTo(l.Src, l.in, l.in, v)
	return nft.Drop{}
}

// lookup finds the ENI's chain in the map of sources.
func (f *filtered) lookup(where string, rule netstate.FilterRule) nft.Statement {
	for _, s := range f.t.v.Node.Filter.Sources {
		if s.Prefix.Contains(f.l.Src) {
			f.l.hop(where, "goes to chain "+s.Chain, s.String())
			return nft.Jump{Chain: s.Chain}
		}
	}
	f.l.hop(where, "sets no mark", rule.String()+" has no element for "+f.l.Src.String())
	return nil
}
