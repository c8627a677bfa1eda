// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// CheckPod: see [Handle.CheckPod].
func (h *kernel) CheckPod(ctx context.Context, p Pod) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("pod: %w: %w", ErrInvalid, err)
	}
	sandbox, err := openNetns(p.Netns)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	defer sandbox.Close()
	inside := newKernel(sandbox)
	defer func() { _ = inside.closeSockets() }() // its sockets have nothing left to report
	a, err := h.newAddition(ctx, p, inside)
	if err != nil {
		return err
	}
	node, err := h.observeNet(ctx)
	if err != nil {
		return err
	}
	within, err := inside.observeNet(ctx)
	if err != nil {
		return err
	}
	if changes := append(a.sandboxDrift(within), a.hostDrift(node)...); len(changes) > 0 {
		return &DriftError{Changes: changes}
	}
	return nil
}

// hostDrift returns the changes that make the host side what the pod needs.
func (a *addition) hostDrift(have netstate.State) []netstate.Change {
	return netstate.Diff(a.owned.of(have), a.host)
}

// sandboxDrift returns the changes that make the sandbox what the pod needs. Items of the
// sandbox that are not in the place of one that the pod needs belong to the pod itself
// and its other plugins.
func (a *addition) sandboxDrift(have netstate.State) []netstate.Change {
	return netstate.Diff(netstate.Counterparts(have, a.sandbox), a.sandbox)
}

// observeNet is Observe without nftables and without the node's settings, which have
// nothing to do with a pod.
func (h *kernel) observeNet(ctx context.Context) (netstate.State, error) {
	var o rtnl.Observation
	err := h.withConn(ctx, func(c *rtnl.Conn) (err error) {
		o, err = rtnl.ObserveRoutes(c)
		return err
	})
	return o.State, err
}
