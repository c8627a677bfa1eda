// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// rounds is how often EnsureNode observes the network at most. The second observation
// usually finds no difference. A third may be necessary because the kernel deletes
// objects together with others, such as routes with the last address of a link.
const rounds = 4

// EnsureNode: see [Handle.EnsureNode].
func (h *kernel) EnsureNode(ctx context.Context, n Node) error {
	if err := n.Validate(); err != nil {
		return fmt.Errorf("node: %w: %w", ErrInvalid, err)
	}
	return converge(ctx, h.Observe, h.applyNode, func(have netstate.State) ([]netstate.Change, error) {
		resolved, err := n.on(have).Resolve(have.Links)
		owned, want := resolved.parts(have)
		return netstate.Diff(owned, want), err
	})
}

// Ensure: see [Handle.Ensure].
func (h *kernel) Ensure(ctx context.Context, d Desired) error {
	if err := d.Node.Validate(); err != nil {
		return fmt.Errorf("node: %w: %w", ErrInvalid, err)
	}
	apply := func(ctx context.Context, changes []netstate.Change) error {
		return h.confirmChanges(ctx, d, changes, func(changes []netstate.Change) error { return h.applyNode(ctx, changes) })
	}
	return converge(ctx, h.Observe, apply, func(have netstate.State) ([]netstate.Change, error) {
		_, err := d.Node.Resolve(have.Links)
		return d.Drift(have), err
	})
}

// carrierTime is how long applyNode waits for the carrier of a link.
const carrierTime = time.Second

// applyNode is Apply. It also waits for the carrier of links of ENIs that it brings up:
// before it is there, the kernel drops what the link sends, among it the first request for
// the MAC of the gateway, which the kernel repeats a second later. A link that has no
// carrier after carrierTime is not waited for any longer, so that an ENI that is broken
// does not stop the others.
func (h *kernel) applyNode(ctx context.Context, changes []netstate.Change) error {
	if err := h.Apply(ctx, changes); err != nil {
		return err
	}
	waited, cancel := context.WithTimeout(ctx, carrierTime)
	defer cancel()
	for _, ch := range changes {
		l, ok := ch.Item.(netstate.Link)
		if !ok || ch.Op != netstate.OpAdd || !l.Up || l.Kind != "" {
			continue
		}
		found, err := h.findLink(ctx, l.Name)
		if err == nil && found.Index != 0 {
			_ = h.withConn(waited, func(c *rtnl.Conn) error { return c.WaitRunning(waited, found.Index) })
		}
	}
	return ctx.Err()
}

// confirmChanges calls f with changes, after it has checked the doubtful ones by a second
// observation. It makes that observation, and calls f, under the exclusive lock, so
// that no ADD is half done.
func (h *kernel) confirmChanges(ctx context.Context, d Desired, changes []netstate.Change, f func([]netstate.Change) error) error {
	if !slices.ContainsFunc(changes, deletesPodRule) {
		return f(changes)
	}
	return h.locked(ctx, alone, func() error {
		have, unsettled, err := h.observeSettled(ctx)
		if err != nil {
			return err
		}
		return f(confirmed(changes, d.resolved(have.Links).without(unsettled).Drift(have.State)))
	})
}

// converge observes and applies until drift finds no changes.
func converge(
	ctx context.Context, observe func(context.Context) (netstate.State, error), apply func(context.Context, []netstate.Change) error,
	drift func(have netstate.State) ([]netstate.Change, error),
) error {
	var changes []netstate.Change
	for range rounds {
		have, err := observe(ctx)
		if err != nil {
			return err
		}
		if changes, err = drift(have); err != nil {
			return err
		}
		if len(changes) == 0 {
			return nil
		}
		if err := apply(ctx, changes); err != nil {
			return err
		}
	}
	return &DriftError{Changes: changes}
}

// RemoveENI: see [Handle.RemoveENI].
func (h *kernel) RemoveENI(ctx context.Context, n Node, id string) error {
	var gone ENI
	rest := n
	rest.ENIs = nil
	for _, e := range n.ENIs {
		if e.ID == id {
			gone = e
		} else {
			rest.ENIs = append(rest.ENIs, e)
		}
	}
	if err := h.EnsureNode(ctx, rest); err != nil {
		return err
	}
	if gone.ID == "" || gone.Primary() {
		return nil
	}
	o, err := h.observe(ctx)
	if err != nil {
		return err
	}
	alone, err := Node{ENIs: []ENI{gone}}.Resolve(o.Links)
	if errors.Is(err, ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	have := alone.Owned(o.State)
	var changes []netstate.Change
	for _, a := range have.Addresses {
		changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: a})
	}
	for _, l := range have.Links {
		l.Up, l.MAC = false, ""
		changes = append(changes, netstate.Change{Op: netstate.OpAdd, Item: l})
	}
	err = h.Apply(ctx, changes)
	if errors.Is(err, unix.ENODEV) {
		return nil // detached meanwhile
	}
	return err
}
