// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// iptablesTexts are the rules of one family, by table.
type iptablesTexts map[string]iptablesTable

// iptablesTable has the rules of our chains, by chain, and the jumps to them, in order.
// Rules have no "-A" and no name of a chain.
type iptablesTable struct {
	chains map[string][]string
	jumps  []iptablesJump
}

// iptablesJump is a rule of another chain that jumps to one of ours.
type iptablesJump struct {
	chain, rule string
	// last means that no rule of another program comes after it. Only a jump from the
	// chain PREROUTING of table nat is wanted as the last one: rules that rewrite the
	// destinations of Services come first.
	last bool
}

// errForeignTable is the error of [ReadIptables] for a table that iptables-nft cannot list.
var errForeignTable = errors.New("the table has rules of the nft program that iptables cannot show")

// textsOfChains returns the rules of the chains, as they should be.
func textsOfChains(all []iptablesChain) iptablesTexts {
	texts := iptablesTexts{}
	for _, k := range all {
		t := texts[k.table]
		if t.chains == nil {
			t.chains = map[string][]string{}
		}
		var rules []string
		for _, p := range k.inside {
			rules = append(rules, returnText(p))
		}
		for _, r := range k.rules {
			rules = append(rules, iptablesText(r))
		}
		t.chains[k.name] = rules
		if k.builtin != "" {
			t.jumps = append(t.jumps, iptablesJump{k.builtin, k.jump(), k.table == tableNAT && k.builtin == builtinPrerouting})
		}
		texts[k.table] = t
	}
	return texts
}

// ReadIptables returns our chains, and the jumps to them, in the text of `iptables-save`
// and in that of `ip6tables-save`.
func ReadIptables(ipv4, ipv6 string) (IptablesRuleset, error) {
	four, err := readTexts(ipv4)
	if err != nil {
		return IptablesRuleset{}, fmt.Errorf("snat: iptables: %w", err)
	}
	six, err := readTexts(ipv6)
	if err != nil {
		return IptablesRuleset{}, fmt.Errorf("snat: ip6tables: %w", err)
	}
	return IptablesRuleset{ipv4: four, ipv6: six}, nil
}

func readTexts(save string) (iptablesTexts, error) {
	texts := iptablesTexts{}
	table := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, "# Table `"):
			// The text is that of xtables-save.c in the sources of iptables.
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "# Table `"), "'")
			if slices.Contains(iptablesTables, name) {
				return nil, fmt.Errorf("table %s: %w", name, errForeignTable)
			}
		case !slices.Contains(iptablesTables, table):
		case strings.HasPrefix(line, ":"+iptablesPrefix):
			name, _, _ := strings.Cut(line[1:], " ")
			texts.declare(table, name)
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[len("-A "):], " ")
			texts.read(table, chain, rule)
		}
	}
	return texts, nil
}

// declare adds a chain without rules.
func (x iptablesTexts) declare(table, chain string) {
	t := x[table]
	if t.chains == nil {
		t.chains = map[string][]string{}
	}
	t.chains[chain] = []string{}
	x[table] = t
}

// read adds a rule if it is in one of our chains or jumps to one.
func (x iptablesTexts) read(table, chain, rule string) {
	t := x[table]
	if strings.HasPrefix(chain, iptablesPrefix) {
		if _, declared := t.chains[chain]; declared {
			t.chains[chain] = append(t.chains[chain], rule)
		}
		return
	}
	for i, j := range t.jumps {
		if j.chain == chain {
			t.jumps[i].last = false
		}
	}
	if jumpsToUs(rule) {
		t.jumps = append(t.jumps, iptablesJump{chain, rule, true})
		x[table] = t
	}
}

// jumpsToUs reports whether a rule continues with one of our chains.
func jumpsToUs(rule string) bool {
	if !strings.Contains(rule, " "+iptablesPrefix) { // most rules of a node with many Services
		return false
	}
	words := ruleWords(rule)
	for i, w := range words[1:] {
		if strings.HasPrefix(w, iptablesPrefix) && (words[i] == "-j" || words[i] == "-g") {
			return true
		}
	}
	return false
}

// Changes returns in words how the rules of r differ from those of want.
func (r IptablesRuleset) Changes(want IptablesRuleset) []string { return textsOf(r.differences(want)) }

// Parts returns the names of the parts of the rules in which r and want differ. There are
// few, whatever other programs add.
func (r IptablesRuleset) Parts(want IptablesRuleset) []string { return partsOf(r.differences(want)) }

func (r IptablesRuleset) differences(want IptablesRuleset) []difference {
	all := r.ipv4.differences(want.ipv4, "iptables ")
	return append(all, r.ipv6.differences(want.ipv6, "ip6tables ")...)
}

// differences returns what distinguishes x from want, each with the program in front.
func (x iptablesTexts) differences(want iptablesTexts, program string) (all []difference) {
	for _, table := range iptablesTables {
		have, wanted := x[table], want[table]
		in := program + table + " "
		for _, name := range unionOfKeys(have.chains, wanted.chains) {
			h, exists := have.chains[name]
			w, wanted := wanted.chains[name]
			part := in + "chain " + name
			switch {
			case !exists:
				all = append(all, difference{part, part + " deleted"})
			case !wanted:
				all = append(all, difference{in + partOthers, part + " added"})
			default:
				all = append(all, ruleDifferences(part, canonicalRules(h), canonicalRules(w))...)
			}
		}
		h, w := jumpTexts(have.jumps), jumpTexts(wanted.jumps)
		all = append(all, ruleDifferences(in+"jumps", h, w)...)
		if len(ruleDifferences("", h, w)) == 0 && len(misplaced(have.jumps, wanted.jumps)) > 0 {
			all = append(all, difference{in + "jumps", in + "jumps: not after the rules of other programs"})
		}
	}
	return all
}

// unionOfKeys returns the keys of both maps in order.
func unionOfKeys(a, b map[string][]string) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// ruleDifferences compares the rules of one part.
func ruleDifferences(part string, have, want []string) (all []difference) {
	deleted, added := missing(want, have), missing(have, want)
	if len(deleted) > 0 {
		all = append(all, difference{part, part + ": deleted " + list(deleted, quote)})
	}
	if len(added) > 0 {
		all = append(all, difference{part, part + ": added " + list(added, quote)})
	}
	if len(all) == 0 && !slices.Equal(have, want) {
		all = append(all, difference{part, part + ": rules in another order"})
	}
	return all
}

// jumpTexts returns the jumps as rules, in an order that says nothing.
func jumpTexts(jumps []iptablesJump) []string {
	all := make([]string, len(jumps))
	for i, j := range jumps {
		all[i] = j.chain + " " + canonicalRule(j.rule)
	}
	slices.Sort(all)
	return all
}

// misplaced returns the jumps in have that want has as the last of their chain, and that
// have other rules behind them.
func misplaced(have, want []iptablesJump) (all []iptablesJump) {
	for _, h := range have {
		if !h.last && slices.ContainsFunc(want, func(w iptablesJump) bool { return w.last && w.same(h) }) {
			all = append(all, h)
		}
	}
	return all
}

// same reports whether j and o are the same rule, in any place of the chain.
func (j iptablesJump) same(o iptablesJump) bool {
	return j.chain == o.chain && canonicalRule(j.rule) == canonicalRule(o.rule)
}

// IPv4Change returns the text with which `iptables-restore --noflush` makes the tables hold
// want instead of r, "" if they hold it. It names no rules and chains of other programs.
// Each table changes in one step.
func (r IptablesRuleset) IPv4Change(want IptablesRuleset) string { return want.ipv4.change(r.ipv4) }

// IPv6Change is IPv4Change for `ip6tables-restore`.
func (r IptablesRuleset) IPv6Change(want IptablesRuleset) string { return want.ipv6.change(r.ipv6) }

// change returns the text that puts x in the place of have.
func (x iptablesTexts) change(have iptablesTexts) string {
	var b strings.Builder
	for _, name := range iptablesTables {
		if lines := x[name].change(have[name]); len(lines) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", name, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// change returns the lines for one table. Declaring a chain that exists flushes it.
func (t iptablesTable) change(have iptablesTable) []string {
	var declared, unlinked, rules, linked, deleted []string
	for _, name := range unionOfKeys(have.chains, t.chains) {
		h, exists := have.chains[name]
		w, wanted := t.chains[name]
		if exists && wanted && slices.Equal(canonicalRules(h), canonicalRules(w)) {
			continue
		}
		declared = append(declared, ":"+name+" - [0:0]")
		for _, rule := range w {
			rules = append(rules, "-A "+name+" "+rule)
		}
		if !wanted {
			deleted = append(deleted, "-X "+name)
		}
	}
	kept := map[int]bool{}
	for _, h := range have.jumps {
		i := slices.IndexFunc(t.jumps, func(w iptablesJump) bool { return w.same(h) })
		if i >= 0 && !kept[i] && (h.last || !t.jumps[i].last) {
			kept[i] = true
			continue
		}
		unlinked = append(unlinked, "-D "+h.chain+" "+h.rule)
	}
	for i, w := range t.jumps {
		if !kept[i] {
			linked = append(linked, "-A "+w.chain+" "+w.rule)
		}
	}
	return slices.Concat(declared, unlinked, rules, linked, deleted)
}

func canonicalRules(rules []string) []string {
	all := make([]string, len(rules))
	for i, r := range rules {
		all[i] = canonicalRule(r)
	}
	return all
}

// canonicalRule returns the options of a rule with their values in one order. Programs of
// different versions print the options in different orders.
func canonicalRule(rule string) string {
	var options []string
	negated := ""
	for _, w := range ruleWords(rule) {
		switch {
		case w == "!":
			negated = "! "
		case strings.HasPrefix(w, "-") || len(options) == 0:
			options, negated = append(options, negated+w), ""
		default:
			options[len(options)-1] += " " + negated + w
			negated = ""
		}
	}
	slices.Sort(options)
	return strings.Join(options, " ")
}

// ruleWords returns the words of a rule. Quotes around a word belong to it unless they are
// needless, and a backslash in them protects the next character.
func ruleWords(rule string) (words []string) {
	var word strings.Builder
	quoted := false
	end := func() {
		if w := word.String(); w != "" {
			if inner := strings.Trim(w, `"`); len(inner)+2 == len(w) && !strings.ContainsAny(inner, " -!\\") {
				w = inner
			}
			words = append(words, w)
		}
		word.Reset()
	}
	for i := 0; i < len(rule); i++ {
		switch c := rule[i]; {
		case c == '\\' && quoted && i+1 < len(rule):
			word.WriteString(rule[i : i+2])
			i++
		case c == ' ' && !quoted:
			end()
		default:
			if c == '"' {
				quoted = !quoted
			}
			word.WriteByte(c)
		}
	}
	end()
	return words
}
