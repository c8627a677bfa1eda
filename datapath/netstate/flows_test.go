// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestFlowsOf changes the table of accelerated flows in ways that Flows cannot describe or
// that another program may have, and looks for the change that repairs it.
func TestFlowsOf(t *testing.T) {
	want := Flows{
		Chains: []Chain{{Name: "forward", Hook: nft.HookForward, Priority: 10, Rules: []FilterRule{
			nft.NewRule(nft.LinkIn{Set: FlowPods}, nft.Established{}, nft.FlowAdd{Flowtable: Flowtable}),
		}}},
		Links: []FlowLink{{Name: "eni1"}, {Name: "eni2"}, {Name: "ens5", ENI: true}},
	}
	for name, tt := range map[string]struct {
		change func(*nft.Table)
		op     string // the beginning of the only change; none if empty
	}{
		"nothing":             {func(*nft.Table) {}, ""},
		"no table":            {func(n *nft.Table) { *n = nft.Table{} }, "nft -f - <<'END'\ntable inet vpcnet-flows {"},
		"no set":              {func(n *nft.Table) { n.Sets = n.Sets[1:] }, "nft -f - <<'END'\ntable"},
		"a set of addresses":  {func(n *nft.Table) { n.Sets[0].Kind = nft.Addrs }, "nft -f - <<'END'\ntable"},
		"no flowtable":        {func(n *nft.Table) { n.Flowtables = nil }, "nft -f - <<'END'\ntable"},
		"other flowtable":     {func(n *nft.Table) { n.Flowtables[0].Foreign = "with other properties" }, "nft -f - <<'END'\ntable"},
		"another hook":        {func(n *nft.Table) { n.Chains[0].Hook = nft.HookPrerouting }, "nft -f - <<'END'\ntable"},
		"another policy":      {func(n *nft.Table) { n.Chains[0].Foreign = "policy drop" }, "nft -f - <<'END'\ntable"},
		"flags":               {func(n *nft.Table) { n.Foreign = "the table has flags 0x1" }, "nft -f - <<'END'\ntable"},
		"a link that retired": {func(n *nft.Table) { n.Flowtables[0].Links = append(n.Flowtables[0].Links, "eni-1a") }, ""},
		"an unhooked link": {func(n *nft.Table) { n.Flowtables[0].Links = []string{"eni2", "ens5"} },
			"nft -f - <<'END'\nadd flowtable inet vpcnet-flows flows { hook ingress priority filter; devices = { eni1 }; }\nadd element inet vpcnet-flows pods { \"eni1\" }\nEND"},
		"a link less": {func(n *nft.Table) { n.Sets[1].Elements, n.Flowtables[0].Links = nil, n.Flowtables[0].Links[:2] },
			"nft -f - <<'END'\nadd flowtable inet vpcnet-flows flows { hook ingress priority filter; devices = { ens5 }; }\nadd element inet vpcnet-flows enis"},
		"a link more": {func(n *nft.Table) { n.Sets[1].Elements = append(n.Sets[1].Elements, nft.Element{Link: "ens6"}) },
			"nft -f - <<'END'\ndelete flowtable inet vpcnet-flows flows { hook ingress priority filter; devices = { ens6 }; }\ndelete element inet vpcnet-flows enis { \"ens6\" }\nEND"},
	} {
		table := want.Table()
		tt.change(&table)
		changes := Diff(State{Flows: FlowsOf(table)}, State{Flows: want})
		switch {
		case tt.op == "" && len(changes) == 0:
		case tt.op != "" && len(changes) == 1 && strings.HasPrefix(changes[0].String(), tt.op):
		default:
			t.Errorf("%s: changes %v, want one of %q", name, changes, tt.op)
		}
	}
	gone := Diff(State{Flows: want}, State{})
	if len(gone) != 1 || gone[0].String() != "nft delete table inet vpcnet-flows" {
		t.Errorf("without acceleration: %v", gone)
	}
	both := Join(State{Flows: Flows{Links: slices.Clone(want.Links[:1])}}, State{Flows: want})
	if got := both.Flows.String(); got != want.String() {
		t.Errorf("joined:\n%s", got)
	}
}
