// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestDifferences changes each part of a table.
func TestDifferences(t *testing.T) {
	one, two, three := nft.Rule{Comment: "one"}, nft.Rule{Comment: "two"}, nft.Rule{Comment: "three"}
	element := func(text string) nft.Element { return nft.Element{Prefix: netip.MustParsePrefix(text)} }
	want := func() nft.Table {
		return nft.Table{
			Sets: []nft.Set{{Name: "s", Elements: []nft.Element{element("10.0.0.0/16"), element("10.1.0.0/16")}}},
			Chains: []nft.Chain{
				{Name: "a", Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: -150, Rules: []nft.Rule{one, two, one}},
				{Name: "b"},
			},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(r *nft.Table)
		want   []difference
	}{
		{"nothing", func(*nft.Table) {}, nil},
		{"no table", func(r *nft.Table) { *r = nft.Table{} }, []difference{{"table", "table deleted"}}},
		{"no set", func(r *nft.Table) { r.Sets = nil }, []difference{{"set s", "set s deleted"}}},
		{"another set", func(r *nft.Table) { r.Sets = append(r.Sets, nft.Set{Name: "x"}) }, []difference{{"others", "set x added"}}},
		{"foreign set", func(r *nft.Table) { r.Sets[0].Foreign = "of another type" }, []difference{{"set s", "set s of another type"}}},
		{"prefix", func(r *nft.Table) { r.Sets[0].Elements[1] = element("10.2.0.0/16") }, []difference{
			{"set s", "set s: deleted 10.1.0.0/16"}, {"set s", "set s: added 10.2.0.0/16"},
		}},
		{"many prefixes", func(r *nft.Table) {
			for i := range byte(5) {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, i, 0}), 24)
				r.Sets[0].Elements = append(r.Sets[0].Elements, nft.Element{Prefix: p})
			}
		}, []difference{{"set s", "set s: added 10.3.0.0/24, 10.3.1.0/24, 10.3.2.0/24 and 2 more"}}},
		{"no chain", func(r *nft.Table) { r.Chains = r.Chains[:1] }, []difference{{"chain b", "chain b deleted"}}},
		{"another chain", func(r *nft.Table) { r.Chains = append(r.Chains, nft.Chain{Name: "x"}) }, []difference{{"others", "chain x added"}}},
		{"flags", func(r *nft.Table) { r.Foreign = "the table has flags 0x1" }, []difference{{"table", "the table has flags 0x1"}}},
		{"policy", func(r *nft.Table) { r.Chains[0].Foreign = "policy drop" }, []difference{{"chain a", "chain a: policy drop"}}},
		{"priority", func(r *nft.Table) { r.Chains[0].Priority = 5 }, []difference{{"chain a", "chain a: type filter hook prerouting priority 5"}}},
		{"one rule less", func(r *nft.Table) { r.Chains[0].Rules = []nft.Rule{one, two} }, []difference{{"chain a", "chain a: deleted rule `comment \"one\"`"}}},
		{"one rule more", func(r *nft.Table) { r.Chains[1].Rules = []nft.Rule{three} }, []difference{{"chain b", "chain b: added rule `comment \"three\"`"}}},
		{"order", func(r *nft.Table) { slices.Reverse(r.Chains[0].Rules[1:]) }, []difference{{"chain a", "chain a: rules in another order"}}},
		{"order of chains", func(r *nft.Table) { slices.Reverse(r.Chains) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := want()
			tt.change(&have)
			if diff := cmp.Diff(tt.want, differences(have, want()), cmp.AllowUnexported(difference{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]difference{{"table", "table added"}}, differences(want(), nft.Table{}), cmp.AllowUnexported(difference{})); diff != "" {
		t.Errorf("empty table wanted (-want +got):\n%s", diff)
	}
}
