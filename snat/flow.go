// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Flow is the first packet of a flow that a node forwards for a pod.
type Flow struct {
	// In is the pod's host link, and Out the link by which its packets leave without a
	// mark: that of the ENI that owns Src.
	In, Out  string
	Src, Dst netip.Addr
	// Endpoint is the destination after kube-proxy has rewritten it. The zero Addr means
	// that it does not.
	Endpoint netip.Addr
	// Protocol is tcp, udp, or empty for others. It matters only for [Config.Ports].
	Protocol string
	// Node are all addresses of the node.
	Node []netip.Addr
}

// Way is what the rules do to a flow.
type Way struct {
	// Mark are the bits of Config.Mark that the packets get, and Out the link by which they
	// leave.
	Mark uint32
	Out  string
	// Source is the source of the packets when they leave. Its port is chosen from Ports if
	// that is not the zero value.
	Source     netip.Addr
	Translated bool
	Ports      Ports
	// Rules are the rules that decided, in the notation of the backend.
	Rules []string
}

// Trace tells whether and to what a flow is translated with the rules of a backend, and by
// which of them. It evaluates the rules as the kernel does.
func (c Config) Trace(b Backend, f Flow) (Way, error) {
	c, err := c.complete()
	if err != nil {
		return Way{}, err
	}
	t := flowTracer{Flow: f, inside: inside4(c.VPC, c.Excluded), way: Way{Source: f.Src, Out: f.Out}}
	stages := t.nftables
	switch {
	case b == Iptables:
		stages = t.iptables
	case b != Nftables:
		return Way{}, fmt.Errorf("snat: backend %q, want %s or %s", b, Nftables, Iptables)
	}
	before, after, err := stages(c)
	if err != nil {
		return Way{}, err
	}
	before()
	if t.mark&c.Mark != 0 {
		t.way.Mark, t.way.Out = t.mark, c.PrimaryLink
	}
	after()
	return t.way, nil
}

// flowTracer follows a packet through chains.
type flowTracer struct {
	Flow
	inside       []netip.Prefix
	way          Way
	mark, ctMark uint32
}

// nftables returns what happens before the route is chosen and after.
func (t *flowTracer) nftables(c Config) (before, after func(), err error) {
	r, err := c.Ruleset()
	if err != nil {
		return nil, nil, err
	}
	run := func(hook string) {
		chains := slices.SortedFunc(slices.Values(r.table.Chains), func(a, b nft.Chain) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, k := range chains {
			if k.Hook != hook {
				continue
			}
			if k.Priority > priorityDNAT {
				t.rewrite()
			}
			for _, rule := range k.Rules {
				if t.rule(rule) && t.decided("chain "+k.Name+": "+rule.String(), rule) {
					break
				}
			}
		}
	}
	return func() { run(nft.HookPrerouting) }, func() { run(nft.HookPostrouting) }, nil
}

// priorityDNAT is where kube-proxy rewrites destinations.
const priorityDNAT = -100

// iptables returns what happens before the route is chosen and after.
func (t *flowTracer) iptables(c Config) (before, after func(), err error) {
	run := func(table, builtin string) {
		for _, k := range c.iptables() {
			if k.table != table || k.builtin != builtin || k.table == tableNAT && t.Src.Is6() || k.link.Name != "" && !t.matches(k.link) {
				continue
			}
			t.iptablesChain(k)
		}
	}
	before = func() {
		run(tableMangle, builtinPrerouting)
		if !t.Endpoint.IsValid() { // a rewritten packet does not reach the rest of table nat
			run(tableNAT, builtinPrerouting)
		}
		t.rewrite()
	}
	return before, func() { run(tableNAT, builtinPostrouting) }, nil
}

func (t *flowTracer) iptablesChain(k iptablesChain) {
	for _, p := range k.inside {
		if p.Contains(t.Dst) {
			t.way.Rules = append(t.way.Rules, "-A "+k.name+" "+returnText(p))
			return
		}
	}
	for _, rule := range k.rules {
		if t.rule(rule) && t.decided("-A "+k.name+" "+iptablesText(rule), rule) {
			return
		}
	}
}

// rewrite puts the endpoint into the place of the Service.
func (t *flowTracer) rewrite() {
	if t.Endpoint.IsValid() {
		t.Dst = t.Endpoint
	}
}

// rule reports whether the packet matches all of a rule, and carries out its marks.
func (t *flowTracer) rule(r nft.Rule) bool {
	for _, s := range r.Statements {
		if !t.matches(s) {
			return false
		}
	}
	return true
}

// decided records a rule that matched, and reports whether it ends the chain.
func (t *flowTracer) decided(text string, r nft.Rule) bool {
	t.way.Rules = append(t.way.Rules, text)
	x, ok := find[nft.SourceNAT](r)
	if ok {
		t.way.Source, t.way.Translated, t.way.Ports = x.To, true, Ports{x.First, x.Last}
	}
	return ok
}

// isInside reports whether the destination is in the set, and records the element.
func (t *flowTracer) isInside(s nft.DestinationNotIn) bool {
	for _, p := range t.inside {
		if p.Contains(t.Dst) {
			if text := "set " + s.Set + ": " + p.String(); !slices.Contains(t.way.Rules, text) {
				t.way.Rules = append(t.way.Rules, text)
			}
			return true
		}
	}
	return false
}

// matches evaluates a statement for the first packet of a flow: it is new, and no answer.
func (t *flowTracer) matches(s nft.Statement) bool {
	switch s := s.(type) {
	case nft.Link:
		link := t.In
		if s.Out {
			link = t.way.Out
		}
		name, prefix := strings.CutSuffix(s.Name, "*")
		return link == name || prefix && strings.HasPrefix(link, name)
	case nft.Reply:
		return false
	case nft.CtMark:
		return (t.ctMark&s.Mask == s.Value) != s.Not
	case nft.LocalAddr:
		a := t.Dst
		if s.Source {
			a = t.Src
		}
		return slices.Contains(t.Node, a) != s.Not
	case nft.DestinationNotIn:
		return t.Dst.Is4() && !t.isInside(s)
	case nft.Protocol:
		return s == map[string]nft.Protocol{"tcp": nft.TCP, "udp": nft.UDP}[t.Protocol]
	case nft.SetCtMark:
		t.ctMark = t.ctMark&^s.Mask | s.Value
	case nft.SetMark:
		t.mark = t.mark&^s.Mask | s.Value
	}
	return true // the others match each packet
}
