// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// RetirePod cuts p off like DelPod but leaves its host link, without address, route or
// rule, to the next [Handle.Sweep]. The kernel needs tens of milliseconds to delete a
// link, but not much more to delete many links at once. A caller on which a runtime waits
// avoids that time. A pod cannot send through a retired link. A pod that has more than a
// veth pair is deleted at once.
func (h *Handle) RetirePod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, h.retire)
}

// retire takes routes and neighbours from the host link of a pod and puts it into the
// group of retired links.
func (h *Handle) retire(ctx context.Context, d *deletion) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Group(d.link.Index, claims.LinkGroupRetired)
		for _, a := range d.addrs {
			for _, table := range []int{claims.TablePods, netstate.TableMain} {
				b.Route(netstate.OpDelete, d.link.Index, netstate.Route{Dst: netstate.HostPrefix(a.Addr), Table: table, Protocol: claims.RouteProtocol}, 0)
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

// Sweep deletes the links that RetirePod left, all in one request, and the rules of the
// per-pod layout of pods that lost their link with the sandbox before any DEL. It may run
// beside anything else, also in other processes: a new pod with an address of one that
// is swept loses nothing.
func (h *Handle) Sweep(ctx context.Context) error {
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
func (h *Handle) orphanRules(ctx context.Context) (changes []netstate.Change, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		changes, err = listOrphans(c)
		return err
	})
	return changes, err
}

func listOrphans(c *rtnl.Conn) ([]netstate.Change, error) {
	var changes []netstate.Change
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
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
		var s netstate.State
		if err := rtnl.ObserveFamily(c, family, &s, rtnl.LinkNames{}); err != nil {
			return nil, err
		}
		changes = append(changes, orphansOf(rules, s.Routes)...)
	}
	return changes, nil
}
