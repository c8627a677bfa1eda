// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// A packet to an address that an ENI of the node holds and no pod has would leave by
// the primary ENI, and the VPC would send it back or drop it: a connection to a pod
// that has just ended would hang until it times out. The node answers that the
// address is unreachable. Routes to pods come first, wherever they are.

// held returns the routes that refuse addresses of no pod, and those that leave the
// addresses in n.InUse to other tables, for one family.
func (n Node) held(ipv6 bool) netstate.State {
	var s netstate.State
	used := map[netip.Prefix]bool{}
	for _, a := range n.InUse {
		used[netstate.HostPrefix(a)] = true
	}
	for _, e := range n.ENIs {
		for _, p := range e.Sources {
			if p.Addr().Is6() == ipv6 && !used[p.Masked()] {
				s.Routes = append(s.Routes, netstate.Route{Dst: p.Masked(), Type: "unreachable", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
			}
		}
	}
	if len(s.Routes) == 0 {
		return s // there is nothing to take an address out of
	}
	for p := range used {
		if p.Addr().Is6() == ipv6 && n.sources(p.Addr()) && !n.isSource(p) {
			s.Routes = append(s.Routes, netstate.Route{Dst: p, Type: "throw", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
		}
	}
	s.Rules = []netstate.Rule{{IPv6: ipv6, Priority: claims.PriorityHeld, Table: claims.TableHeld, Protocol: claims.RuleProtocol}}
	return s
}

// sources reports whether an ENI of n holds an address.
func (n Node) sources(a netip.Addr) bool {
	for _, e := range n.ENIs {
		if contains(e.Sources, a) {
			return true
		}
	}
	return false
}

// isSource reports whether an ENI of n holds a prefix as one unit.
func (n Node) isSource(p netip.Prefix) bool {
	for _, e := range n.ENIs {
		for _, s := range e.Sources {
			if s.Masked() == p {
				return true
			}
		}
	}
	return false
}
