// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// A packet to an address that an ENI of the node holds but no pod has would leave by
// the primary ENI, and the VPC would return it or drop it. A connection to a pod that
// has just ended would hang until it times out. Therefore the node answers that such
// addresses are unreachable. Routes to pods take precedence, whatever table they are
// in.

// held returns, for one family, the routes that refuse addresses without a pod, and
// those that exempt the addresses in n.InUse.
func (n Node) held(f netstate.Family) netstate.State {
	var s netstate.State
	used := map[netip.Prefix]bool{}
	for _, a := range n.InUse {
		used[netstate.HostPrefix(a)] = true
	}
	for _, e := range n.ENIs {
		for _, p := range e.Sources {
			if netstate.FamilyOf(p.Addr()) == f && !used[p.Masked()] {
				s.Routes = append(s.Routes, netstate.Route{Dst: p.Masked(), Type: "unreachable", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
			}
		}
	}
	if len(s.Routes) == 0 {
		return s // no prefix is refused, so no address needs an exemption
	}
	for p := range used {
		if netstate.FamilyOf(p.Addr()) == f && n.sources(p.Addr()) && !n.isSource(p) {
			s.Routes = append(s.Routes, netstate.Route{Dst: p, Type: "throw", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
		}
	}
	s.Rules = []netstate.Rule{{IPv6: f.Is6(), Priority: claims.PriorityHeld, Table: claims.TableHeld, Protocol: claims.RuleProtocol}}
	return s
}

// sources reports whether an ENI of n holds the address.
func (n Node) sources(a netip.Addr) bool {
	return slices.ContainsFunc(n.ENIs, func(e ENI) bool { return contains(e.Sources, a) })
}

// isSource reports whether an ENI of n holds the prefix as one unit.
func (n Node) isSource(p netip.Prefix) bool {
	return slices.ContainsFunc(n.ENIs, func(e ENI) bool {
		return slices.ContainsFunc(e.Sources, func(s netip.Prefix) bool { return s.Masked() == p })
	})
}
