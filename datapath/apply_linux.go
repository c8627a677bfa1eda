// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// Apply carries out changes in order and stops at the first that fails. A
// deletion of what is gone and an addition of what is there both succeed. To add a
// veth link that does not exist is AddPod's work and fails here.
func (h *Handle) Apply(ctx context.Context, changes []netstate.Change) error {
	for len(changes) > 0 {
		n, err := h.applySome(ctx, changes)
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// applySome carries out as many changes as go by one way, and counts them.
func (h *Handle) applySome(ctx context.Context, changes []netstate.Change) (int, error) {
	switch i := changes[0].Item.(type) {
	case netstate.Sysctl:
		return 1, rtnl.WriteSysctls(h.ns, []netstate.Sysctl{i})
	case netstate.Link:
		if special(changes[0]) {
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
	for n < min(len(changes), rtnl.BatchSize) && isRouteItem(changes[n].Item) && !special(changes[n]) {
		n++
	}
	return n, h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.Apply(c, changes[:n]) })
}

// special reports whether a change of a link concerns other links too: the one
// below it, or the bridge that it shall be a port of or no more.
func special(c netstate.Change) bool {
	l, ok := c.Item.(netstate.Link)
	return ok && c.Op == netstate.OpAdd && l.Kind != ""
}

func isFilterItem(i netstate.Item) bool {
	switch i.(type) {
	case netstate.Filter, netstate.Source:
		return true
	}
	return false
}

func isRouteItem(i netstate.Item) bool {
	_, setting := i.(netstate.Sysctl)
	return !setting && !isFilterItem(i)
}
