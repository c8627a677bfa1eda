// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// Apply: see [Handle.Apply].
func (h *kernel) Apply(ctx context.Context, changes []netstate.Change) error {
	for len(changes) > 0 {
		n, err := h.applySome(ctx, changes)
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// applySome carries out the changes at the beginning of the list that go into one
// request, and returns their number.
func (h *kernel) applySome(ctx context.Context, changes []netstate.Change) (int, error) {
	switch i := changes[0].Item.(type) {
	case netstate.Sysctl:
		return 1, rtnl.WriteSysctls(h.ns, []netstate.Sysctl{i})
	case netstate.Link:
		if needsOtherLinks(changes[0]) {
			return 1, h.applyVirtual(ctx, i)
		}
	case netstate.Filter, netstate.Source:
		n := 1
		for n < len(changes) && isFilterItem(changes[n].Item) {
			n++
		}
		return n, h.applyFilter(changes[:n])
	}
	n := 1
	for n < min(len(changes), rtnl.BatchSize) && isRouteItem(changes[n].Item) && !needsOtherLinks(changes[n]) {
		n++
	}
	return n, h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.Apply(c, changes[:n]) })
}

// needsOtherLinks reports whether a change of a link involves another link: its parent,
// or the bridge that it joins or leaves.
func needsOtherLinks(c netstate.Change) bool {
	l, ok := c.Item.(netstate.Link)
	return ok && c.Op == netstate.OpAdd && l.Kind != ""
}

// isFilterItem reports whether an item is part of the nftables table.
func isFilterItem(i netstate.Item) bool {
	switch i.(type) {
	case netstate.Filter, netstate.Source:
		return true
	}
	return false
}

// isRouteItem reports whether an item is changed by route netlink.
func isRouteItem(i netstate.Item) bool {
	_, setting := i.(netstate.Sysctl)
	return !setting && !isFilterItem(i)
}
