// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Op is what a [Change] does.
type Op string

// Repeating either is harmless: to add what is there replaces it, to delete
// what is gone succeeds.
const (
	OpAdd    Op = "add"
	OpDelete Op = "delete"
)

// Item is one of Link, Address, Neighbor, Route, Rule, Sysctl, Source and
// Filter.
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

// Change is one step from a state to another. Its text is the command that a
// person would type.
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
		return fmt.Sprintf("nft %s element inet %s %s '{ %s }'", c.Op, FilterTable, sourceMap(i), text)
	case Filter:
		if i.Empty() || !add {
			return "nft delete table inet " + FilterTable
		}
		return "nft -f - <<'END'\n" + strings.TrimSuffix(i.String(), "\n") + "\nEND"
	}
	return ""
}

func sourceMap(s Source) string {
	if s.Prefix.Addr().Is4() {
		return SourceMaps[0].Name
	}
	return SourceMaps[1].Name
}

// Additions returns the changes that make s out of nothing, in an order in
// which each can succeed.
func (s State) Additions() []Change {
	return Diff(State{}, s)
}

// Diff returns the changes that lead from have to want, in an order in which
// each succeeds and traffic flows throughout: what is new comes before what is
// old goes. Both must be limited to what the caller may change, see
// [Node.Owned]. Equal states give no change. A zero MTU in want is any MTU, and a
// setting that want does not name stays.
func Diff(have, want State) []Change {
	have, want = have.Canonical(), want.Canonical()
	made, links, oldLinks := diffLinks(have.Links, want.Links)
	addrs, oldAddrs := diffItems(have.Addresses, want.Addresses, Address.Key)
	addrs = append(remade(have.Addresses, want.Addresses), addrs...)
	neighs, oldNeighs := diffItems(have.Neighbors, want.Neighbors, Neighbor.Key)
	routes, oldRoutes := diffItems(have.Routes, want.Routes, Route.Key)
	rules, oldRules := diffItems(have.Rules, want.Rules, Rule.Key)
	sysctls, _ := diffItems(have.Sysctls, want.Sysctls, Sysctl.key)
	filter, oldFilter := diffFilter(have.Filter, want.Filter)
	return slices.Concat(made, sysctls, links, addrs, neighs, routes, rules, filter,
		oldRules, oldFilter, oldRoutes, oldNeighs, oldAddrs, oldLinks)
}

// diffItems returns additions in order and deletions in reverse. An item of the
// same key is replaced by its addition.
func diffItems[T interface {
	comparable
	Item
}, K comparable](have, want []T, key func(T) K) (add, del []Change) {
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

// remade deletes addresses that want has with another flag, which the kernel
// does not change in place. Routes may go with them: the next Diff finds out.
func remade(have, want []Address) []Change {
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

// diffLinks returns also the links to make before anything else, so that they can
// be given their settings.
func diffLinks(have, want []Link) (made, add, del []Change) {
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
				made = append(made, Change{OpAdd, w})
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
	return append(made, pairs...), add, del
}

// satisfies reports whether l is as w wants it.
func (l Link) satisfies(w Link) bool {
	return l.MAC == w.MAC && l.Up == w.Up && (w.MTU == 0 || l.MTU == w.MTU) &&
		(w.Kind == "" || l.Kind == w.Kind && l.Group == w.Group && l.Master == w.Master && l.VLAN == w.VLAN) &&
		(w.Parent == "" || l.Parent == w.Parent) && (w.Alias == "" || l.Alias == w.Alias)
}

// diffFilter replaces the whole table in one transaction when its chains
// differ, and else only elements.
func diffFilter(have, want Filter) (add, del []Change) {
	switch {
	case have.Empty() && want.Empty():
		return nil, nil
	case want.Empty():
		return nil, []Change{{OpDelete, have}}
	case !reflect.DeepEqual(have.Chains, want.Chains):
		return []Change{{OpAdd, want}}, nil
	}
	// An element cannot change its verdict, and may not overlap another: old
	// ones go first. This does not cut off a pod, since an address leaves an
	// ENI only after its last pod.
	keep := map[Source]bool{}
	for _, s := range want.Sources {
		keep[s] = true
	}
	for _, s := range have.Sources {
		if !keep[s] {
			add = append(add, Change{OpDelete, s})
		}
		delete(keep, s)
	}
	for _, s := range want.Sources {
		if keep[s] {
			add = append(add, Change{OpAdd, s})
		}
	}
	return add, nil
}
