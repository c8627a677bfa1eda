// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// The chains of iptables. All chains with this beginning belong to this package, and all
// rules of other chains that jump to them.
const (
	iptablesPrefix = "VPCNET-"

	iptablesMarks   = iptablesPrefix + "MARKS"   // of mangle: node ports and the marks of packets
	iptablesReturns = iptablesPrefix + "RETURNS" // of mangle: see returnsChain
	iptablesPods    = iptablesPrefix + "PODS"    // of nat: decides about new flows from pods
	iptablesSource  = iptablesPrefix + "SOURCE"  // of nat: see sourceChain
)

// The tables of iptables, in the order in which they are changed: a flow is never
// translated before the marks of its packets are set.
const (
	tableMangle = "mangle"
	tableNAT    = "nat"
)

var iptablesTables = []string{tableMangle, tableNAT}

const (
	builtinPrerouting  = "PREROUTING"
	builtinPostrouting = "POSTROUTING"
)

// IptablesRuleset is the content of the chains of this package in the tables of iptables,
// for both families. It has the same effect as the [Ruleset] of the same [Config], except
// for what Limits returns.
type IptablesRuleset struct {
	ipv4, ipv6 iptablesTexts
	limits     []string
}

// limitsOfIptables are what iptables cannot do for a Config that translates. Its mangle
// table sees a packet before kube-proxy rewrites the destination, its nat table does not
// see it afterwards, and then the kernel chooses the route.
var limitsOfIptables = []string{
	"pods on second ENIs do not reach Services that have their endpoints outside of the VPC",
	"pods on second ENIs reach Services of a kube-proxy in nftables mode only if the prefix of the Services is excluded",
}

// Iptables computes the rules for c in the form that iptables needs. They differ in
// one point from those of [Config.Ruleset]: whether a flow leaves the VPC is decided by the
// destination that the pod uses, and not at all for a Service of a kube-proxy in
// iptables mode. See [IptablesRuleset.Limits].
func (c Config) Iptables() (IptablesRuleset, error) {
	c, err := c.complete()
	if err != nil {
		return IptablesRuleset{}, err
	}
	var r IptablesRuleset
	all := c.iptables()
	r.ipv4 = textsOfChains(all)
	r.ipv6 = textsOfChains(slices.DeleteFunc(slices.Clone(all), func(k iptablesChain) bool { return k.table == tableNAT }))
	if c.translates() {
		r.limits = limitsOfIptables
	}
	return r, nil
}

// Limits returns what the rules cannot do although the [Config] asks for it, one sentence
// each. A ruleset that was read has none.
func (r IptablesRuleset) Limits() []string { return slices.Clone(r.limits) }

// Equal reports whether r and o have the same rules.
func (r IptablesRuleset) Equal(o IptablesRuleset) bool {
	return len(r.Changes(o)) == 0
}

// String returns the rules of both families as text. The parts of the families are those
// that IPv4 and IPv6 return, and the limits are comments.
func (r IptablesRuleset) String() string {
	var b strings.Builder
	for _, l := range r.limits {
		fmt.Fprintf(&b, "# limit: %s\n", l)
	}
	for _, f := range []struct{ title, text string }{{"iptables", r.IPv4()}, {"ip6tables", r.IPv6()}} {
		if f.text != "" {
			fmt.Fprintf(&b, "# %s\n%s", f.title, f.text)
		}
	}
	return b.String()
}

// IPv4 returns the rules that `iptables-restore --noflush` puts into tables without them,
// as `iptables-save` prints them.
func (r IptablesRuleset) IPv4() string { return r.ipv4.change(iptablesTexts{}) }

// IPv6 returns the rules for `ip6tables-restore --noflush`.
func (r IptablesRuleset) IPv6() string { return r.ipv6.change(iptablesTexts{}) }

// iptablesChain is a chain of iptables. Its rules have the statements of nftables that
// iptables can express.
type iptablesChain struct {
	table, name string
	// builtin is the chain from which packets come, of links that link matches; it is
	// empty if they come from a rule of another chain.
	builtin string
	link    nft.Link
	comment string
	// inside are destinations of packets that return at once.
	inside []netip.Prefix
	rules  []nft.Rule
}

// iptables returns the chains for a complete Config.
func (c Config) iptables() (all []iptablesChain) {
	marks := iptablesChain{table: tableMangle, name: iptablesMarks, builtin: builtinPrerouting, comment: "marks of vpcnet"}
	if c.NodePort {
		marks.rules = c.nodePort().Rules
	}
	if c.NodePort || c.translates() {
		marks.rules = append(marks.rules, c.podMarks(false).Rules...)
		all = append(all, marks)
	}
	if len(c.Returns) > 0 {
		all = append(all, iptablesChain{table: tableMangle, name: iptablesReturns, rules: c.returns().Rules})
	}
	if !c.translates() {
		return all
	}
	inside := inside4(c.VPC, c.Excluded)
	// The nat table sees only the first packet of a flow, and only as long as no rule
	// before has rewritten its destination.
	return append(all, iptablesChain{
		table: tableNAT, name: iptablesPods, builtin: builtinPrerouting, link: nft.Link{Name: c.HostLinkPrefix + "*"},
		comment: "flows that will be translated", inside: inside, rules: c.podMarks(true).Rules[:2],
	}, iptablesChain{
		table: tableNAT, name: iptablesSource, builtin: builtinPostrouting, link: nft.Link{Out: true, Name: c.PrimaryLink},
		comment: "pods appear as the node", inside: inside, rules: c.source(c.node4()).Rules,
	})
}

// jump returns the rule that sends packets to k.
func (k iptablesChain) jump() string {
	r := nft.Rule{Statements: []nft.Statement{nft.Jump{Chain: k.name}}, Comment: k.comment}
	if k.link.Name != "" {
		r.Statements = append([]nft.Statement{k.link}, r.Statements...)
	}
	return iptablesText(r)
}

// returnText returns the rule that ends a chain for packets to p.
func returnText(p netip.Prefix) string {
	if p.Bits() == 0 { // iptables does not print it
		return "-j RETURN"
	}
	return "-d " + p.String() + " -j RETURN"
}

// iptablesText returns a rule in the notation of iptables. It leaves out the destinations
// for which the chain returns before.
func iptablesText(r nft.Rule) string {
	var header, matches, action []string
	for _, s := range r.Statements {
		switch s := s.(type) {
		case nft.Link:
			option := "-i "
			if s.Out {
				option = "-o "
			}
			header = append(header, option+strings.Replace(s.Name, "*", "+", 1))
		case nft.Protocol:
			header = append(header, "-p "+strings.TrimPrefix(s.String(), "meta l4proto "))
		case nft.NewFlow:
			matches = append(matches, "-m conntrack --ctstate NEW")
		case nft.Reply:
			matches = append(matches, "-m conntrack --ctdir REPLY")
		case nft.LocalAddr:
			option := "--dst-type LOCAL"
			if s.Source {
				option = "--src-type LOCAL"
			}
			matches = append(matches, "-m addrtype "+not(s.Not)+option)
		case nft.CtMark:
			matches = append(matches, fmt.Sprintf("-m connmark %s--mark 0x%x/0x%x", not(s.Not), s.Value, s.Mask))
		case nft.SetCtMark:
			action = append(action, fmt.Sprintf("-j CONNMARK --set-xmark 0x%x/0x%x", s.Value, s.Mask))
		case nft.SetMark:
			action = append(action, fmt.Sprintf("-j MARK --set-xmark 0x%x/0x%x", s.Value, s.Mask))
		case nft.SourceNAT:
			action = append(action, sourceText(s))
		case nft.Jump:
			chain := s.Chain
			if chain == returnsChain {
				chain = iptablesReturns
			}
			action = append(action, "-j "+chain)
		}
	}
	if r.Comment != "" {
		matches = append(matches, fmt.Sprintf("-m comment --comment %q", r.Comment))
	}
	return strings.Join(slices.Concat(header, matches, action), " ")
}

func not(b bool) string {
	if b {
		return "! "
	}
	return ""
}

func sourceText(s nft.SourceNAT) string {
	text := "-j SNAT --to-source " + s.To.String()
	if s.First != 0 {
		text += fmt.Sprintf(":%d-%d", s.First, s.Last)
	}
	switch s.Choice {
	case nft.PortRandom:
		text += " --random-fully"
	case nft.PortHash:
		text += " --random"
	}
	return text
}
