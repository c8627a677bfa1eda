// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// FlowsTable is the name of the nftables table of [Flows], of family inet.
const FlowsTable = "vpcnet-flows"

// Names of the sets of links, and of the flowtable that has the links of both.
const (
	FlowPods  = "pods"
	FlowENIs  = "enis"
	Flowtable = "flows"
)

// Flows is the nftables table that lets packets of established flows pass from link to link,
// before routing and all other rules see them. The zero value describes no table.
type Flows struct {
	// Chains decide which flows do so. Their hook is forward.
	Chains []Chain
	// Links are the links between which they do.
	Links []FlowLink
}

// FlowLink is a link of [Flows]: the host link of a pod, or that of an ENI.
type FlowLink struct {
	Name string
	ENI  bool
	// Unhooked means that the table names the link, but its packets do not reach the table:
	// the link does not exist, or another program has taken it out. It is never set in a
	// wanted state.
	Unhooked bool `json:",omitempty"`
}

func (f Flows) empty() bool { return len(f.Chains) == 0 }

// Table returns the nftables table that f describes.
func (f Flows) Table() nft.Table {
	t := nft.Table{Name: FlowsTable}
	if f.empty() {
		return t
	}
	flowtable := nft.Flowtable{Name: Flowtable}
	pods, enis := nft.Set{Name: FlowPods, Kind: nft.Links}, nft.Set{Name: FlowENIs, Kind: nft.Links}
	for _, l := range f.Links {
		set := &pods
		if l.ENI {
			set = &enis
		}
		set.Elements = append(set.Elements, nft.Element{Link: l.Name})
		if !l.Unhooked {
			flowtable.Links = append(flowtable.Links, l.Name)
		}
	}
	t.Sets, t.Flowtables = []nft.Set{pods, enis}, []nft.Flowtable{flowtable}
	for _, c := range f.Chains {
		chain := nft.Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: c.Rules}
		if c.Hook != "" {
			chain.Type = nft.TypeFilter
		}
		t.Chains = append(t.Chains, chain)
	}
	return t
}

// FlowsOf returns the Flows that describe an nftables table. If the table contains something
// that Flows cannot describe, they have an additional chain with a name that says so. They
// then differ from all Flows of a node. Links that only the flowtable has do nothing, and are
// left out: those of pods that have ended stay there until they are deleted.
func FlowsOf(t nft.Table) Flows {
	var f Flows
	if t.IsEmpty() {
		return f
	}
	odd := func(format string, args ...any) {
		f.Chains = append(f.Chains, Chain{Name: fmt.Sprintf(format, args...)})
	}
	for _, c := range t.Chains {
		known := c.Hook == "" || c.Hook == nft.HookForward && c.Type == nft.TypeFilter
		if c.Foreign != "" || !known {
			c.Hook = "unknown"
		}
		f.Chains = append(f.Chains, Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: c.Rules})
	}
	if t.Foreign != "" {
		odd("%s", t.Foreign)
	}
	hooked := map[string]bool{}
	for _, x := range t.Flowtables {
		for _, l := range x.Links {
			hooked[l] = true
		}
		if x.Foreign != "" || x.Name != Flowtable {
			odd("flowtable %s %s", x.Name, x.Foreign)
		}
	}
	if len(t.Flowtables) == 0 {
		odd("no flowtable")
	}
	for _, name := range []string{FlowPods, FlowENIs} {
		i := slices.IndexFunc(t.Sets, func(s nft.Set) bool { return s.Name == name })
		if i < 0 || t.Sets[i].Foreign != "" || t.Sets[i].Kind != nft.Links || t.Sets[i].IsMap {
			odd("no set %s of links", name)
			continue
		}
		for _, e := range t.Sets[i].Elements {
			f.Links = append(f.Links, FlowLink{Name: e.Link, ENI: name == FlowENIs, Unhooked: !hooked[e.Link]})
		}
	}
	return f
}

// String returns the table in the notation of `nft list table`.
func (f Flows) String() string { return f.Table().String() }

// String returns the name of the link, and the set of the table that has it.
func (l FlowLink) String() string {
	if l.ENI {
		return l.Name + " in " + FlowENIs
	}
	return l.Name + " in " + FlowPods
}

// change returns the commands of nft that add the link to the table, or take it out.
func (l FlowLink) change(op Op) string {
	set := FlowPods
	if l.ENI {
		set = FlowENIs
	}
	return fmt.Sprintf("nft -f - <<'END'\n%[1]s flowtable inet %[2]s %[3]s { hook ingress priority filter; devices = { %[4]s }; }\n%[1]s element inet %[2]s %[5]s { %[4]q }\nEND",
		op, FlowsTable, Flowtable, l.Name, set)
}

func compareFlowLinks(a, b FlowLink) int {
	return cmp.Or(compareBools(a.ENI, b.ENI), strings.Compare(a.Name, b.Name), compareBools(a.Unhooked, b.Unhooked))
}

// diffFlows returns the whole table if its chains differ, and otherwise changes only links.
func diffFlows(have, want Flows) (add, del []Change) {
	switch {
	case have.empty() && want.empty():
		return nil, nil
	case want.empty():
		return nil, []Change{{OpDelete, have}}
	case !reflect.DeepEqual(have.Chains, want.Chains):
		return []Change{{OpAdd, want}}, nil
	}
	return diffItems(have.Links, want.Links, FlowLink.key)
}

// key returns the link without its state.
func (l FlowLink) key() FlowLink {
	l.Unhooked = false
	return l
}
