// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// rounds bounds how often EnsureNode looks again at what it has made. The second
// look usually finds nothing; a third is for what the kernel took away along with
// something else, as routes go with the last address of a link.
const rounds = 4

// EnsureNode makes the namespace's network what n wants, whatever it was, and
// verifies it; pods stay as they are, so that a node with pods changes its layout
// by [Handle.Ensure]. It changes nothing where nothing differs, and can be
// repeated after a failure at any point. ENIs' links are found by MAC;
// ErrNoLink means that one is not there yet. A *DriftError means that someone
// undoes what it does.
func (h *Handle) EnsureNode(ctx context.Context, n Node) error {
	if err := n.Validate(); err != nil {
		return fmt.Errorf("node: %w: %w", ErrInvalid, err)
	}
	return converge(ctx, h.Observe, h.Apply, func(have netstate.State) ([]netstate.Change, error) {
		resolved, err := n.Resolve(have.Links)
		return netstate.Diff(resolved.Owned(have), resolved.stateIn(have)), err
	})
}

// Ensure makes the node and the host sides of its pods what d wants, in one row
// of changes, and verifies it. It converts a node from one layout to the other
// under the pods' traffic: everything new is in place before the first old piece
// goes. Pods that are not in d keep what they have, which after a conversion may
// no longer work; an AddPod beside it must already have the new layout.
func (h *Handle) Ensure(ctx context.Context, d Desired) error {
	if err := d.Node.Validate(); err != nil {
		return fmt.Errorf("node: %w: %w", ErrInvalid, err)
	}
	apply := func(ctx context.Context, changes []netstate.Change) error {
		return h.surely(ctx, d, changes, func(changes []netstate.Change) error { return h.Apply(ctx, changes) })
	}
	return converge(ctx, h.Observe, apply, func(have netstate.State) ([]netstate.Change, error) {
		_, err := d.Node.Resolve(have.Links)
		return d.Drift(have), err
	})
}

// surely lends f changes that a look has found, after another look if the first may
// have been wrong: with the lock, so that no ADD is in the middle and none begins
// before f is done.
func (h *Handle) surely(ctx context.Context, d Desired, changes []netstate.Change, f func([]netstate.Change) error) error {
	if !slices.ContainsFunc(changes, doubtful) {
		return f(changes)
	}
	return h.locked(ctx, alone, func() error {
		have, unsettled, err := h.observeSettled(ctx)
		if err != nil {
			return err
		}
		return f(confirmed(changes, d.without(unsettled).Drift(have.State)))
	})
}

// converge observes and applies until drift finds nothing.
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

// RemoveENI takes the ENI with that ID out of n and out of service: its
// addresses, routes, rules and sources go and its link goes down. It succeeds if
// the link or the ENI is gone already.
func (h *Handle) RemoveENI(ctx context.Context, n Node, id string) error {
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
