// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"slices"
	"strings"
)

// Op is what a [Change] does.
type Op string

// Both are idempotent: adding an existing item replaces it, and deleting an item
// that does not exist succeeds.
const (
	OpAdd    Op = "add"
	OpDelete Op = "delete"
)

// Item is the object of a [Change]: a Link, Address, Neighbor, Route, Rule, Sysctl,
// Source, Filter, FlowLink or Flows.
type Item interface {
	fmt.Stringer
	item()
}

func (Link) item()     {}
func (Address) item()  {}
func (Neighbor) item() {}
func (Route) item()    {}
func (Rule) item()     {}
func (Sysctl) item()   {}
func (Source) item()   {}
func (Filter) item()   {}
func (FlowLink) item() {}
func (Flows) item()    {}

// Change is one step from one state to another. It prints itself as the command
// that an operator would type.
type Change struct {
	Op   Op
	Item Item
}

func (c Change) String() string {
	add := c.Op == OpAdd
	pick := func(a, d string) string {
		if add {
			return a
		}
		return d
	}
	switch i := c.Item.(type) {
	case Link:
		if add {
			return "ip " + i.String()
		}
		return "ip link del dev " + i.Name
	case Address:
		return "ip addr " + pick("replace ", "del ") + i.String()
	case Neighbor:
		return "ip neigh " + pick("replace "+i.String(), fmt.Sprintf("del %s dev %s", i.Addr, i.Link))
	case Route:
		return fmt.Sprintf("ip %s route %s %s", family(i.Dst.Addr()), pick("replace", "del"), i)
	case Rule:
		fam := "-4"
		if i.IPv6 {
			fam = "-6"
		}
		return fmt.Sprintf("ip %s rule %s %s", fam, pick("add", "del"), i)
	case Sysctl:
		return "sysctl -w " + i.String()
	case Source:
		text := i.String()
		if !add {
			text = plain(i.Prefix)
		}
		return fmt.Sprintf("nft %s element inet %s %s '{ %s }'", c.Op, FilterTable, i.SourceMap().Name, text)
	case FlowLink:
		return i.change(c.Op)
	case Flows:
		if i.empty() || !add {
			return "nft delete table inet " + FlowsTable
		}
		return "nft -f - <<'END'\n" + strings.TrimSuffix(i.String(), "\n") + "\nEND"
	case Filter:
		if i.empty() || !add {
			return "nft delete table inet " + FilterTable
		}
		return "nft -f - <<'END'\n" + strings.TrimSuffix(i.String(), "\n") + "\nEND"
	}
	return ""
}

// Additions returns the changes that create s from an empty state, in an order in
// which each can succeed.
func (s State) Additions() []Change {
	return Diff(State{}, s)
}

// Diff returns the changes that lead from have to want. Their order lets each of
// them succeed and keeps traffic flowing: additions come before deletions. Both
// states must contain only what the caller may change; for a node that is
// [github.com/vpcnet/vpcnet/datapath.Node.Owned]. Equal states give no changes. A
// zero MTU in want accepts every MTU, and settings that want does not name stay as
// they are.
func Diff(have, want State) []Change {
	have, want = have.Canonical(), want.Canonical()
	created, links, oldLinks := diffLinks(have.Links, want.Links)
	addrs, oldAddrs := diffItems(have.Addresses, want.Addresses, Address.Key)
	addrs = append(changedAddresses(have.Addresses, want.Addresses), addrs...)
	neighs, oldNeighs := diffItems(have.Neighbors, want.Neighbors, Neighbor.Key)
	routes, oldRoutes := diffItems(have.Routes, want.Routes, Route.Key)
	rules, oldRules := diffItems(have.Rules, want.Rules, Rule.key)
	sysctls, _ := diffItems(have.Sysctls, want.Sysctls, Sysctl.key)
	filter, oldFilter := diffFilter(have.Filter, want.Filter)
	flows, oldFlows := diffFlows(have.Flows, want.Flows)
	return slices.Concat(created, sysctls, links, addrs, neighs, routes, rules, filter, flows,
		oldFlows, oldRules, oldFilter, oldRoutes, oldNeighs, oldAddrs, oldLinks)
}

// diffItems returns the additions in order and the deletions in reverse order. An
// addition replaces the item that has the same key.
func diffItems[T interface {
	comparable
	Item
}, K comparable](have, want []T, key func(T) K) (add, del []Change) {
	if slices.Equal(have, want) {
		return nil, nil // the usual case, without tables of hundreds of items
	}
	has, keep := map[T]bool{}, map[K]bool{}
	for _, i := range have {
		has[i] = true
	}
	for _, i := range want {
		keep[key(i)] = true
		if !has[i] {
			add = append(add, Change{OpAdd, i})
		}
	}
	for _, i := range slices.Backward(have) {
		if !keep[key(i)] {
			del = append(del, Change{OpDelete, i})
		}
	}
	return add, del
}

// changedAddresses returns the deletions of addresses that have another flag in want, since
// the kernel cannot change the flag of an existing address. The kernel may delete
// routes together with such an address; the next Diff adds them again.
func changedAddresses(have, want []Address) []Change {
	flag := map[AddressKey]bool{}
	for _, a := range want {
		flag[a.Key()] = a.NoPrefixRoute
	}
	var changes []Change
	for _, a := range have {
		if f, ok := flag[a.Key()]; ok && f != a.NoPrefixRoute {
			changes = append(changes, Change{OpDelete, a})
		}
	}
	return changes
}

// diffLinks returns in created the links that must exist before their settings can
// be written, in add the other additions, and in del the deletions.
func diffLinks(have, want []Link) (created, add, del []Change) {
	var pairs []Change
	byName, keep := map[string]Link{}, map[string]bool{}
	for _, l := range have {
		byName[l.Name] = l
	}
	for _, w := range want {
		keep[w.Name] = true
		if h, ok := byName[w.Name]; !ok || !h.satisfies(w) {
			change := Change{OpAdd, w}
			switch {
			case w.Virtual():
				w.Up = false
				created = append(created, Change{OpAdd, w})
				add = append(add, change)
			case !ok && w.Kind == "veth":
				pairs = append(pairs, change)
			default:
				add = append(add, change)
			}
		}
	}
	for _, h := range slices.Backward(have) {
		if !keep[h.Name] {
			del = append(del, Change{OpDelete, h})
		}
	}
	return append(created, pairs...), add, del
}

// satisfies reports whether l is as the wanted link w describes.
func (l Link) satisfies(w Link) bool {
	return l.MAC == w.MAC && l.Up == w.Up && (w.MTU == 0 || l.MTU == w.MTU) &&
		(w.Kind == "" || l.Kind == w.Kind && l.NoARP == w.NoARP && l.Group == w.Group && l.Master == w.Master && l.VLAN == w.VLAN) &&
		(w.Parent == "" || l.Parent == w.Parent) && (w.Alias == "" || l.Alias == w.Alias)
}
