// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/nft"
)

func testFilter() Filter {
	return Filter{
		Chains: []Chain{
			{Name: "prerouting", Hook: "prerouting", Priority: -150, Rules: []FilterRule{nft.NewRule(nft.Link{Name: "eni*"}, nft.Jump{Chain: "from-pod"})}},
			{Name: "eni-1", Rules: []FilterRule{nft.NewRule(nft.SetMark{Mask: 0x7f, Value: 1})}},
			{Name: "from-pod", Rules: []FilterRule{
				nft.NewRule(nft.NoReverseRoute{}, nft.Drop{}),
				nft.NewRule(nft.Destination{Addr: netip.MustParseAddr("169.254.169.254")}, nft.Reject{}),
				nft.NewRule(nft.SourceMap{Family: nft.IPv4, Map: SourceMap4}),
			}},
		},
		Sources: []Source{{Prefix: netip.MustParsePrefix("10.0.0.16/28"), Chain: "eni-1"}, {Prefix: netip.MustParsePrefix("2001:db8::/80"), Chain: "eni-1"}},
	}
}

// TestFilterJSON writes a filter as JSON and reads it back: rules are strings, and
// nothing differs.
func TestFilterJSON(t *testing.T) {
	want := State{Filter: testFilter()}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{`iifname \"eni*\" jump from-pod`, "fib saddr . iif oif missing drop", "ip saddr vmap @source4"} {
		if !strings.Contains(string(data), `"`+rule+`"`) {
			t.Errorf("%s: want a string %q", data, rule)
		}
	}
	var got State
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" || len(Diff(want, got)) != 0 {
		t.Errorf("changes %v (-want +got):\n%s", Diff(want, got), diff)
	}
}

// TestFilterOf changes the table of a filter. Each change makes Diff replace the table,
// unless it is a change of elements only.
func TestFilterOf(t *testing.T) {
	want := testFilter()
	for name, tt := range map[string]struct {
		change func(*nft.Table)
		op     string // the beginning of the only change; none if empty
	}{
		"nothing":        {func(*nft.Table) {}, ""},
		"no chains":      {func(n *nft.Table) { n.Chains = nil }, "nft -f"},
		"no map":         {func(n *nft.Table) { n.Sets = n.Sets[1:] }, "nft -f"},
		"foreign map":    {func(n *nft.Table) { n.Sets[0].Foreign = "has the range 10.0.0.1-10.0.0.3, which is not a prefix" }, "nft -f"},
		"set for map":    {func(n *nft.Table) { n.Sets[0].IsMap = false }, "nft -f"},
		"IPv6 for IPv4":  {func(n *nft.Table) { n.Sets[0].Family = nft.IPv6 }, "nft -f"},
		"flags":          {func(n *nft.Table) { n.Foreign = "the table has flags 0x1" }, "nft -f"},
		"another policy": {func(n *nft.Table) { n.Chains[0].Foreign = "policy drop" }, "nft -f"},
		"another type":   {func(n *nft.Table) { n.Chains[0].Type = nft.TypeNAT }, "nft -f"},
		"another hook":   {func(n *nft.Table) { n.Chains[0].Hook = nft.HookPostrouting }, "nft -f"},
		"foreign rule": {func(n *nft.Table) {
			n.Chains[1].Rules = append(slices.Clone(n.Chains[1].Rules), nft.NewRule(nft.Foreign{Text: "quota"}))
		}, "nft -f"},
		"more elements": {func(n *nft.Table) {
			n.Sets[0].Elements = append(n.Sets[0].Elements, nft.Element{Prefix: netip.MustParsePrefix("10.0.0.32/28"), Chain: "eni-1"})
		}, "nft delete element inet vpcnet source4 '{ 10.0.0.32/28 }'"},
		"less elements": {func(n *nft.Table) { n.Sets[1].Elements = nil }, "nft add element inet vpcnet source6 '{ 2001:db8::/80 : jump eni-1 }'"},
	} {
		table := want.Table()
		tt.change(&table)
		changes := Diff(State{Filter: FilterOf(table)}, State{Filter: want})
		switch {
		case tt.op == "" && len(changes) == 0:
		case tt.op != "" && len(changes) == 1 && strings.HasPrefix(changes[0].String(), tt.op):
		default:
			t.Errorf("%s: changes %v, want one of %q", name, changes, tt.op)
		}
	}
}
