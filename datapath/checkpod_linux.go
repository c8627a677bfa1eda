// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"slices"
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

// repairHost makes the host side of a pod what it should be.
func (h *Handle) repairHost(ctx context.Context, p Pod) error {
	return converge(ctx, h.observeNet, h.applyPod, func(have State) ([]Change, error) {
		return Diff(p.owned(have), p.HostState()), nil
	})
}

// applyPod carries out changes of one pod, beside no sweep if they have rules.
func (h *Handle) applyPod(ctx context.Context, changes []Change) error {
	if !slices.ContainsFunc(changes, func(c Change) bool { return isRule(c.Item) }) {
		return h.Apply(ctx, changes)
	}
	return h.locked(ctx, shared, func() error { return h.Apply(ctx, changes) })
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
