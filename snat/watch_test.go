// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDifferences(t *testing.T) {
	one, two, three := rule{comment: "one"}, rule{comment: "two"}, rule{comment: "three"}
	want := func() Ruleset {
		return Ruleset{
			sets: []set{{name: "s", prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")}}},
			chains: []chain{
				{name: "a", kind: kindFilter, hook: hookPrerouting, priority: -150, rules: []rule{one, two, one}},
				{name: "b"},
			},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(r *Ruleset)
		want   []difference
	}{
		{"nothing", func(*Ruleset) {}, nil},
		{"no table", func(r *Ruleset) { *r = Ruleset{} }, []difference{{"table", "table deleted"}}},
		{"no set", func(r *Ruleset) { r.sets = nil }, []difference{{"set s", "set s deleted"}}},
		{"another set", func(r *Ruleset) { r.sets = append(r.sets, set{name: "x"}) }, []difference{{"others", "set x added"}}},
		{"odd set", func(r *Ruleset) { r.sets[0].odd = "of another type" }, []difference{{"set s", "set s of another type"}}},
		{"prefix", func(r *Ruleset) { r.sets[0].prefixes[1] = netip.MustParsePrefix("10.2.0.0/16") }, []difference{
			{"set s", "set s: deleted 10.1.0.0/16"}, {"set s", "set s: added 10.2.0.0/16"},
		}},
		{"many prefixes", func(r *Ruleset) {
			for i := range byte(5) {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, i, 0}), 24)
				r.sets[0].prefixes = append(r.sets[0].prefixes, p)
			}
		}, []difference{{"set s", "set s: added 10.3.0.0/24, 10.3.1.0/24, 10.3.2.0/24 and 2 more"}}},
		{"no chain", func(r *Ruleset) { r.chains = r.chains[:1] }, []difference{{"chain b", "chain b deleted"}}},
		{"another chain", func(r *Ruleset) { r.chains = append(r.chains, chain{name: "x"}) }, []difference{{"others", "chain x added"}}},
		{"flags", func(r *Ruleset) { r.chains = append(r.chains, chain{odd: "the table has flags 0x1"}) }, []difference{{"table", "the table has flags 0x1"}}},
		{"policy", func(r *Ruleset) { r.chains[0].odd = "policy drop" }, []difference{{"chain a", "chain a: policy drop"}}},
		{"priority", func(r *Ruleset) { r.chains[0].priority = 5 }, []difference{{"chain a", "chain a: type filter hook prerouting priority 5"}}},
		{"one rule less", func(r *Ruleset) { r.chains[0].rules = []rule{one, two} }, []difference{{"chain a", "chain a: deleted rule `comment \"one\"`"}}},
		{"one rule more", func(r *Ruleset) { r.chains[1].rules = []rule{three} }, []difference{{"chain b", "chain b: added rule `comment \"three\"`"}}},
		{"order", func(r *Ruleset) { slices.Reverse(r.chains[0].rules[1:]) }, []difference{{"chain a", "chain a: rules in another order"}}},
		{"order of chains", func(r *Ruleset) { slices.Reverse(r.chains) }, []difference{{"table", "table changed"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := want()
			tt.change(&have)
			if diff := cmp.Diff(tt.want, differences(have, want()), cmp.AllowUnexported(difference{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]difference{{"table", "table added"}}, differences(want(), Ruleset{}), cmp.AllowUnexported(difference{})); diff != "" {
		t.Errorf("nothing wanted (-want +got):\n%s", diff)
	}
}
