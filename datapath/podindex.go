// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// maxIndex is the highest index of a pod's interface, and the highest number of a route
// table that is free for use: 253 to 255 are the kernel's.
const maxIndex = 250

// indexIn returns the index of p in a sandbox with the state have: p.Index if that is set,
// otherwise the index that an earlier AddPod has given to p, otherwise a free one.
func (p Pod) indexIn(have netstate.State) (int, error) {
	if p.Index != 0 {
		return p.Index, nil
	}
	if n, ok := p.wiredIndex(have); ok {
		return n, nil
	}
	return p.freeIndex(have)
}

// wiredIndex returns the index that p has, according to the rule for its addresses or to
// its own default route in table main. ok is false if there is neither.
func (p Pod) wiredIndex(have netstate.State) (n int, ok bool) {
	for _, r := range have.Rules {
		for _, a := range p.Addrs {
			if want := p.sandboxRule(a.Addr); r.Table > 0 && r.Table <= maxIndex {
				want.Table = r.Table
				if r == want {
					return r.Table, true
				}
			}
		}
	}
	for _, r := range have.Routes {
		if p.ownLink(r.Link) && p.isDefault(r) {
			return 0, true
		}
	}
	return 0, false
}

// freeIndex returns 0 if no other interface has a default route in a family of p, and
// otherwise the lowest index of which neither the table nor the gateways are in use.
func (p Pod) freeIndex(have netstate.State) (int, error) {
	other := false
	tables, gateways := map[int]bool{}, map[netip.Addr]bool{}
	for _, r := range have.Routes {
		if p.ownLink(r.Link) {
			continue
		}
		other = other || p.isDefault(r)
		tables[r.Table] = true
		gateways[r.Via] = true
		gateways[r.Dst.Addr()] = true
	}
	if !other {
		return 0, nil
	}
	for _, r := range have.Rules {
		tables[r.Table] = true
	}
	for n := 1; n <= maxIndex; n++ {
		used := tables[n]
		for _, a := range p.Addrs {
			used = used || gateways[claims.Gateway(a.Addr, n)]
		}
		if !used {
			return n, nil
		}
	}
	return 0, fmt.Errorf("the sandbox has another default route and no free route table in 1..%d", maxIndex)
}

// isDefault reports whether r is a default route of table main in a family of p.
func (p Pod) isDefault(r netstate.Route) bool {
	return r.Table == netstate.TableMain && r.Type == "" && r.Dst.Bits() == 0 && p.hasFamily(netstate.FamilyOf(r.Dst.Addr()))
}

// ownLink reports whether a link of the sandbox is p's.
func (p Pod) ownLink(name string) bool { return name == p.IfName || name != "" && name == p.peer() }
