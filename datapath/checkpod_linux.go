// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
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
	defer func() { _ = inside.closeSockets() }() // what was read is read
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
	apply := func(ctx context.Context, changes []netstate.Change) error { return h.applyPod(ctx, p, changes) }
	return converge(ctx, h.observeNet, apply, func(have netstate.State) ([]netstate.Change, error) {
		for _, r := range have.Routes {
			if l, ok := have.Link(r.Link); ok && p.has(r.Dst) && leadsToOne(r) && !claims.Ending(l.Group) && !p.ownsLink(r.Link) && !p.sharesLink(r.Link) {
				return nil, taken(r.Dst.Addr(), r.Link, false)
			}
		}
		return netstate.Diff(p.owned(have), p.HostState()), nil
	})
}

// applyPod carries out changes of one pod, beside no sweep if they have rules. Routes
// to its addresses are claimed before rules name them; and if the host link is not as
// it should be, it counts as being wired until all is done.
func (h *Handle) applyPod(ctx context.Context, p Pod, changes []netstate.Change) error {
	var contested []netstate.Route
	var rest, rules []netstate.Change
	unfinished := false
	for _, ch := range changes {
		switch i := ch.Item.(type) {
		case netstate.Link:
			if i.Name == p.HostLink() && ch.Op == netstate.OpAdd {
				unfinished = true
				i.Group = claims.LinkGroupWiring
			}
			rest = append(rest, netstate.Change{Op: ch.Op, Item: i})
		case netstate.Rule:
			rules = append(rules, ch)
		case netstate.Route:
			if ch.Op == netstate.OpAdd && i.Link == p.HostLink() && leadsToOne(i) {
				contested = append(contested, i)
				continue
			}
			rest = append(rest, ch)
		default:
			rest = append(rest, ch)
		}
	}
	apply := func() error {
		if err := h.Apply(ctx, rest); err != nil || len(contested)+len(rules) == 0 && !unfinished {
			return err
		}
		return h.withConn(ctx, func(c *rtnl.Conn) error {
			index, err := rtnl.LinkIndexes(c, []netstate.Change{{Op: netstate.OpAdd, Item: netstate.Link{Name: p.HostLink()}}})
			if err == nil {
				err = claimRoutes(c, p, index[p.HostLink()], contested)
			}
			if err == nil {
				err = rtnl.Apply(c, rules)
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
	err := converge(ctx, h.observeNet, h.Apply, func(have netstate.State) ([]netstate.Change, error) {
		return netstate.Diff(p.ownedInSandbox(have), p.SandboxState()), nil
	})
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// podDrift returns what differs on the two sides of p.
func (h *Handle) podDrift(ctx context.Context, p Pod, inside *Handle) (host, within []netstate.Change, err error) {
	have, err := h.observeNet(ctx)
	if err != nil {
		return nil, nil, err
	}
	host = netstate.Diff(p.owned(have), p.HostState())
	if have, err = inside.observeNet(ctx); err != nil {
		return nil, nil, err
	}
	return host, netstate.Diff(p.ownedInSandbox(have), p.SandboxState()), nil
}

// observeNet is Observe without nftables and without the node's settings, which
// no pod has a part in.
func (h *Handle) observeNet(ctx context.Context) (netstate.State, error) {
	var o rtnl.Observation
	err := h.withConn(ctx, func(c *rtnl.Conn) (err error) {
		o, err = rtnl.ObserveRoutes(c)
		return err
	})
	return o.State, err
}
