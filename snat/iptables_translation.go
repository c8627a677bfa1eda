// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Translation returns what r does to sources, as [Ruleset.Translation] does, and false if r
// has nothing to do with them. Chains that no packet reaches do nothing. Odd lists the rules
// that are not of this package.
func (r IptablesRuleset) Translation() (Translation, bool) {
	var t Translation
	var decides, marks uint32
	for _, rule := range r.ipv4.reached(tableNAT, iptablesSource) {
		words := ruleWords(rule)
		to, translates := optionOf(words, "--to-source")
		inside, _ := optionOf(words, "-d")
		switch prefix, err := netip.ParsePrefix(inside); {
		case translates:
			to, _, _ = strings.Cut(to, ":")
			t.To, _ = netip.ParseAddr(to) // the zero Addr says that nothing is translated
			t.Link, _ = optionOf(words, "-o")
		case err == nil && rule == returnText(prefix):
			t.Inside = append(t.Inside, prefix)
		case rule == "-j RETURN":
			t.Inside = append(t.Inside, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
		default:
			t.Odd = append(t.Odd, iptablesSource+" "+rule)
		}
	}
	for _, rule := range slices.Concat(r.ipv4.reached(tableNAT, iptablesPods), r.ipv4.reached(tableMangle, iptablesMarks)) {
		words := ruleWords(rule)
		link, _ := optionOf(words, "-i")
		prefix, isPods := strings.CutSuffix(link, "+")
		mark, _ := optionOf(words, "--set-xmark")
		value, _, _ := strings.Cut(mark, "/")
		bits, err := strconv.ParseUint(value, 0, 32)
		switch target, _ := optionOf(words, "-j"); {
		case !isPods || err != nil:
		case target == "CONNMARK":
			decides = uint32(bits)
		case target == "MARK":
			marks, t.HostLinkPrefix = uint32(bits), prefix
		}
	}
	if decides == marks {
		t.Mark = marks
	}
	return t, t.To.IsValid() || decides != 0 || len(t.Inside) > 0 || len(t.Odd) > 0
}

// reached returns the rules of a chain, if another chain jumps to it.
func (x iptablesTexts) reached(table, chain string) []string {
	if !slices.ContainsFunc(x[table].jumps, func(j iptablesJump) bool { return strings.HasSuffix(j.rule, "-j "+chain) }) {
		return nil
	}
	return x[table].chains[chain]
}

// optionOf returns the value of an option.
func optionOf(words []string, option string) (string, bool) {
	i := slices.Index(words, option)
	if i < 0 || i+1 == len(words) {
		return "", false
	}
	return words[i+1], true
}
