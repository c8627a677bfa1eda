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

// RetirePod cuts p off like DelPod but leaves its host link, without address,
// route or rule, to the next [Handle.Sweep]. To delete a link takes the kernel
// tens of milliseconds, which many links deleted at once share; a caller that is
// waited for need not. Nobody can send through the link meanwhile.
func (h *Handle) RetirePod(ctx context.Context, p Pod) error {
	link, addrs, err := h.unwire(ctx, p)
	if err != nil {
		return err
	}
	if link.Index == 0 || aliasIn(link) != (alias{}) || p.Index > 0 {
		return h.delMode(ctx, p, link, addrs)
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Group(link.Index, claims.LinkGroupRetired)
		for _, a := range addrs {
			for _, table := range []int{claims.TablePods, netstate.TableMain} {
				b.Route(netstate.OpDelete, link.Index, netstate.Route{Dst: netstate.HostPrefix(a.Addr), Table: table, Protocol: claims.RouteProtocol}, 0)
			}
			b.Neighbor(netstate.OpDelete, link.Index, netstate.Neighbor{Addr: a.Addr})
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			// What is gone went with the sandbox.
			if a.Err != nil && !rtnl.IsGone(a.Err) {
				return fmt.Errorf("retire %s: %w", link.Name, a.Err)
			}
		}
		return nil
	})
}

// Sweep deletes the links that RetirePod left, all in one go, and the rules of
// the per-pod layout whose pod's link went away with its sandbox before any DEL.
// It may run beside anything else, also in other processes: a new pod with an
// address of one that is swept keeps all that is its own.
func (h *Handle) Sweep(ctx context.Context) error {
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Add(unix.RTM_DELLINK, rtnl.Ack, rtnl.LinkHeader(0, 0, 0), func() { b.Attr32(unix.IFLA_GROUP, claims.LinkGroupRetired) })
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].Err; err != nil && !rtnl.IsGone(err) {
			return fmt.Errorf("delete retired links: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
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

// orphanRules returns the deletion of rules of pods that no route leads to. AddPod
// makes the route first, so the rules are listed first. Without the lock a rule may
// have got a pod by the time that it is deleted.
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
		header := make([]byte, 12)
		header[0] = family
		var rules []netstate.Rule
		err := c.DumpAll(unix.RTM_GETRULE, header, func(b []byte) error {
			r, err := rtnl.ParseRule(b)
			if claims.OwnedRule(r) && podRule(r) {
				rules = append(rules, r)
			}
			return err
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
