// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// RetirePod: see [Handle.RetirePod].
func (h *kernel) RetirePod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, h.retire)
}

// retire takes routes and neighbours from the host link of a pod and puts it into the
// group of retired links.
func (h *kernel) retire(ctx context.Context, d *deletion) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Group(d.link.Index, claims.LinkGroupRetired)
		for _, a := range d.addrs {
			for _, table := range []int{claims.TablePods, netstate.TableMain} {
				b.DeleteRoute(d.link.Index, netstate.Route{Dst: netstate.HostPrefix(a.Addr), Table: table, Protocol: claims.RouteProtocol})
			}
			b.Neighbor(netstate.OpDelete, d.link.Index, netstate.Neighbor{Addr: a.Addr})
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			// Items that are gone went with the sandbox.
			if a.Err != nil && !rtnl.IsGone(a.Err) {
				return fmt.Errorf("retire %s: %w", d.link.Name, a.Err)
			}
		}
		return nil
	})
}

// Sweep: see [Handle.Sweep].
func (h *kernel) Sweep(ctx context.Context) error {
	err := h.withConn(ctx, func(c *rtnl.Conn) error { return c.DeleteLinkGroup(claims.LinkGroupRetired) })
	if err != nil {
		return fmt.Errorf("retired links: %w", err)
	}
	orphans, err := h.orphanRules(ctx)
	if err != nil || len(orphans) == 0 {
		return err
	}
	return h.locked(ctx, alone, func() error {
		if orphans, err = h.orphanRules(ctx); err != nil {
			return err
		}
		return h.Apply(ctx, orphans)
	})
}

// orphanRules returns the deletion of rules of pods to which no route leads. AddPod makes
// the route first, so the rules are listed first. Without the lock, a rule may belong to a
// new pod by the time that it is deleted.
func (h *kernel) orphanRules(ctx context.Context) (changes []netstate.Change, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		changes, err = listOrphans(c)
		return err
	})
	return changes, err
}

func listOrphans(c *rtnl.Conn) ([]netstate.Change, error) {
	var changes []netstate.Change
	for family := range netstate.Families() {
		var rules []netstate.Rule
		err := c.EachRule(family, func(r netstate.Rule) {
			if claims.OwnedRule(r) && podRule(r) {
				rules = append(rules, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		if len(rules) == 0 {
			continue
		}
		var routes []netstate.Route
		if err := c.EachRoute(family, nil, func(r netstate.Route) { routes = append(routes, r) }); err != nil {
			return nil, err
		}
		changes = append(changes, orphansOf(rules, routes)...)
	}
	return changes, nil
}
