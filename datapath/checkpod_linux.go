// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
)

// CheckPod returns a *DriftError if p is not wired as AddPod would, on either
// side, and ErrNoSandbox if its sandbox is gone.
func (h *Handle) CheckPod(ctx context.Context, p Pod) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("pod: %w: %w", ErrInvalid, err)
	}
	sandbox, err := openNetns(p.Netns)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	defer sandbox.Close()
	inside := newHandle(sandbox)
	defer func() { _ = inside.drain() }() // what was read is read
	if p, err = h.resolvePod(ctx, p); err != nil {
		return err
	}
	host, within, err := h.podDrift(ctx, p, inside)
	if err != nil {
		return err
	}
	if changes := append(within, host...); len(changes) > 0 {
		return &DriftError{Changes: changes}
	}
	return nil
}

// repairPod makes both sides of a pair that exists what they should be.
func (h *Handle) repairPod(ctx context.Context, p Pod, inside *Handle) error {
	if err := inside.repairInside(ctx, p); err != nil {
		return err
	}
	return h.repairHost(ctx, p)
}

// repairHost makes the host side of a pod that was wired before what it should be. An
// address on the node's own links goes from there; one that another pod has by now
// stays with that pod.
func (h *Handle) repairHost(ctx context.Context, p Pod) error {
	apply := func(ctx context.Context, changes []Change) error { return h.applyPod(ctx, p, changes) }
	return converge(ctx, h.observeNet, apply, func(have State) ([]Change, error) {
		for _, r := range have.Routes {
			if l, ok := have.link(r.Link); ok && p.has(r.Dst) && r.leadsToOne() && !ending(l.Group) && !p.ownsLink(r.Link) && !p.sharesLink(r.Link) {
				return nil, taken(r.Dst.Addr(), r.Link, false)
			}
		}
		return Diff(p.owned(have), p.HostState()), nil
	})
}

// applyPod carries out changes of one pod, beside no sweep if they have rules. Routes
// to its addresses are claimed before rules name them; and if the host link is not as
// it should be, it counts as being wired until all is done.
func (h *Handle) applyPod(ctx context.Context, p Pod, changes []Change) error {
	var claims []Route
	var rest, rules []Change
	unfinished := false
	for _, ch := range changes {
		switch i := ch.Item.(type) {
		case Link:
			if i.Name == p.HostLink() && ch.Op == OpAdd {
				unfinished = true
				i.Group = linkGroupWiring
			}
			rest = append(rest, Change{ch.Op, i})
		case Rule:
			rules = append(rules, ch)
		case Route:
			if ch.Op == OpAdd && i.Link == p.HostLink() && i.leadsToOne() {
				claims = append(claims, i)
				continue
			}
			rest = append(rest, ch)
		default:
			rest = append(rest, ch)
		}
	}
	apply := func() error {
		if err := h.Apply(ctx, rest); err != nil || len(claims)+len(rules) == 0 && !unfinished {
			return err
		}
		return h.withConn(ctx, func(c *conn) error {
			index, err := linkIndexes(c, []Change{{OpAdd, Link{Name: p.HostLink()}}})
			if err == nil {
				err = claimRoutes(c, p, index[p.HostLink()], claims)
			}
			if err == nil {
				err = applyRoutes(c, rules)
			}
			if err == nil && unfinished {
				err = wired(c, index[p.HostLink()])
			}
			return err
		})
	}
	if len(rules) == 0 {
		return apply()
	}
	return h.locked(ctx, shared, apply)
}

// repairInside makes the sandbox of h what p wants. What is there already stays:
// ipvlan refuses an address that it has.
func (h *Handle) repairInside(ctx context.Context, p Pod) error {
	err := converge(ctx, h.observeNet, h.Apply, func(have State) ([]Change, error) {
		return Diff(p.ownedInSandbox(have), p.SandboxState()), nil
	})
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// podDrift returns what differs on the two sides of p.
func (h *Handle) podDrift(ctx context.Context, p Pod, inside *Handle) (host, within []Change, err error) {
	have, err := h.observeNet(ctx)
	if err != nil {
		return nil, nil, err
	}
	host = Diff(p.owned(have), p.HostState())
	if have, err = inside.observeNet(ctx); err != nil {
		return nil, nil, err
	}
	return host, Diff(p.ownedInSandbox(have), p.SandboxState()), nil
}

// observeNet is Observe without nftables and without the node's settings, which
// no pod has a part in.
func (h *Handle) observeNet(ctx context.Context) (State, error) {
	var o observation
	err := h.withConn(ctx, func(c *conn) (err error) {
		o, err = observeRoutes(c)
		return err
	})
	return o.State, err
}
