// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"net/netip"
	"slices"
)

// Table returns the route table of a subnet: the one that lists the subnet, or else the
// main table. It returns false if there is neither. The subnet then has no routes of its
// own: packets for addresses that no ENI owns and that are not in a block go to the
// peer network or to the internet gateway.
func (r Rules) Table(subnet string) (RouteTable, bool) {
	for _, t := range r.RouteTables {
		if slices.Contains(t.Subnets, subnet) {
			return t, true
		}
	}
	for _, t := range r.RouteTables {
		if t.Main {
			return t, true
		}
	}
	return RouteTable{}, false
}

// lookup returns the target of the route with the longest prefix that contains the
// address. The blocks are those of the VPC. Their local routes are in every table. A
// route of the table replaces the local route with the same prefix. Without a route the
// target is a Blackhole, and so is the target Local of an address outside the blocks.
func (t RouteTable) lookup(blocks []netip.Prefix, a netip.Addr) Target {
	longest, target := -1, Target{}
	for _, b := range blocks {
		if b.Contains(a) && b.Bits() > longest {
			longest, target = b.Bits(), Target{Kind: Local}
		}
	}
	for _, r := range t.Routes {
		if r.Destination.Contains(a) && r.Destination.Bits() >= longest {
			longest, target = r.Destination.Bits(), r.Target
		}
	}
	if target.Kind == Local && !within(blocks, netip.PrefixFrom(a, a.BitLen())) {
		return Target{}
	}
	return target
}

// Delivers reports whether packets that take the route go to the owner of their
// destination: the route is local and inside a block.
func (r Route) Delivers(blocks []netip.Prefix) bool {
	return r.Target.Kind == Local && within(blocks, r.Destination)
}

// within reports whether one of the blocks contains the prefix.
func within(blocks []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Bits() <= p.Bits() && b.Contains(p.Addr()) })
}

// Route returns where a packet for the address goes: to an ENI, to the internet gateway
// or to the peer network. The target is a Blackhole if it is an ENI that is not in the
// network. The packet comes from an ENI in the given subnet; "" means that it comes
// from outside of the VPC.
func (n Network) Route(subnet string, a netip.Addr) Target {
	target := Target{Kind: Local}
	if t, ok := n.Table(subnet); ok && subnet != "" {
		target = t.lookup(n.Blocks, a)
	} else if !n.inside(a) {
		target.Kind = Internet
		if slices.ContainsFunc(n.Peers, func(p netip.Prefix) bool { return p.Contains(a) }) {
			target.Kind = Peer
		}
	}
	switch target.Kind {
	case Local:
		return n.owner(a)
	case ToENI:
		if _, ok := n.eni(target.ENI); !ok {
			return Target{}
		}
	}
	return target
}

// inside reports whether the address is in a block or belongs to an ENI.
func (n Network) inside(a netip.Addr) bool {
	return n.owner(a).Kind == ToENI || within(n.Blocks, netip.PrefixFrom(a, a.BitLen()))
}

// owner returns the ENI that owns the address, a Blackhole if there is none. A longer
// prefix wins.
func (n Network) owner(a netip.Addr) Target {
	longest, target := -1, Target{}
	for _, e := range n.ENIs {
		for _, p := range e.Owned {
			if p.Contains(a) && p.Bits() > longest {
				longest, target = p.Bits(), Target{Kind: ToENI, ENI: e.ID}
			}
		}
	}
	return target
}

func (n Network) eni(id string) (ENI, bool) {
	i := slices.IndexFunc(n.ENIs, func(e ENI) bool { return e.ID == id })
	if i < 0 {
		return ENI{}, false
	}
	return n.ENIs[i], true
}
