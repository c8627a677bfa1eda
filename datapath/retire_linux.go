// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

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
	if link.index == 0 || link.alias != (alias{}) || p.Index > 0 {
		return h.delMode(ctx, p, link, addrs)
	}
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.group(link.index, LinkGroupRetired)
		for _, a := range addrs {
			for _, table := range []int{TablePods, TableMain} {
				b.route(OpDelete, link.index, Route{Dst: hostPrefix(a.Addr), Table: table, Protocol: RouteProtocol}, 0)
			}
			b.neighbor(OpDelete, link.index, Neighbor{Addr: a.Addr})
		}
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			// What is gone went with the sandbox.
			if a.err != nil && !isGone(a.err) {
				return fmt.Errorf("retire %s: %w", link.Name, a.err)
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
	err := h.withConn(ctx, func(c *conn) error {
		var b batch
		b.add(unix.RTM_DELLINK, ack, linkHeader(0, 0, 0), func() { b.attr32(unix.IFLA_GROUP, LinkGroupRetired) })
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].err; err != nil && !isGone(err) {
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
func (h *Handle) orphanRules(ctx context.Context) (changes []Change, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		changes, err = listOrphans(c)
		return err
	})
	return changes, err
}

func listOrphans(c *conn) ([]Change, error) {
	var changes []Change
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, 12)
		header[0] = family
		var rules []Rule
		err := c.dumpAll(unix.RTM_GETRULE, header, func(b []byte) error {
			r, err := parseRule(b)
			if ownedRule(r) && podRule(r) {
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
		var s State
		if err := observeFamily(c, family, &s, names{}); err != nil {
			return nil, err
		}
		changes = append(changes, orphansOf(rules, s.Routes)...)
	}
	return changes, nil
}
