// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// ensureSandbox changes the sandbox to what the pod needs. It does not add what exists
// already, because ipvlan refuses an address that its link has.
func (a *addition) ensureSandbox(ctx context.Context) error {
	apply := func(ctx context.Context, changes []netstate.Change) error {
		a.unfinished = true
		return a.inside.Apply(ctx, changes)
	}
	err := converge(ctx, a.inside.observeNet, apply, func(have netstate.State) ([]netstate.Change, error) {
		return a.sandboxDrift(have), nil
	})
	if err == nil && a.unfinished {
		err = a.inside.Apply(ctx, localEntries(a.sandbox.Addresses))
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// ensureHost changes the host side to what the pod needs. It deletes what earlier pods with
// the same addresses have left and, if an earlier ADD of the pod was completed, the pod's
// addresses on links of the node. It takes no address from another pod.
func (a *addition) ensureHost(ctx context.Context) error {
	ensure := func() error {
		return converge(ctx, a.observeHost, a.applyHost, a.hostDriftWiring)
	}
	if a.alias == (alias{}) {
		return ensure()
	}
	return a.h.locked(ctx, alone, ensure)
}

// observeHost observes the node, and returns ErrAddressTaken if an address of the pod is
// another pod's or the node's.
func (a *addition) observeHost(ctx context.Context) (netstate.State, error) {
	var o rtnl.Observation
	err := a.h.withConn(ctx, func(c *rtnl.Conn) (err error) {
		if o, err = c.Observe(); err != nil {
			return err
		}
		return a.refuseIn(c, o)
	})
	return o.State, err
}

// hostDriftWiring returns the hostDrift of a pod that is being wired: its host link stays in
// the group of such links until the ADD ends. It fails if a DEL of the pod has begun.
func (a *addition) hostDriftWiring(have netstate.State) ([]netstate.Change, error) {
	link, _ := have.Link(a.pod.HostLink())
	if claims.Ending(link.Group) {
		return nil, errDeleted
	}
	want := a.host
	if link.Group == claims.LinkGroupWiring {
		want.Links = slices.Clone(want.Links)
		for i := range want.Links {
			if want.Links[i].Name == link.Name {
				want.Links[i].Group = link.Group
			}
		}
	}
	return netstate.Diff(a.owned.of(have), settingsOf(have.Sysctls).effective(want)), nil
}

// applyHost carries out changes of the host side. It adds routes to the pod's addresses before
// rules for them. If the host link has to change, it puts the link into the group of links
// that are being wired until the ADD ends.
func (a *addition) applyHost(ctx context.Context, changes []netstate.Change) error {
	var contested []netstate.Route
	var others, rules []netstate.Change
	for _, ch := range changes {
		switch i := ch.Item.(type) {
		case netstate.Link:
			if i.Name == a.link.Name && ch.Op == netstate.OpAdd {
				i.Group = claims.LinkGroupWiring
			}
			others = append(others, netstate.Change{Op: ch.Op, Item: i})
		case netstate.Rule:
			rules = append(rules, ch)
		case netstate.Route:
			if ch.Op == netstate.OpAdd && i.Link == a.link.Name && leadsToOne(i) {
				contested = append(contested, i)
				continue
			}
			others = append(others, ch)
		default:
			others = append(others, ch)
		}
	}
	apply := func() error {
		if err := a.h.Apply(ctx, others); err != nil {
			return err
		}
		return a.h.withConn(ctx, func(c *rtnl.Conn) error {
			if err := a.claimRoutes(ctx, c, contested); err != nil {
				return err
			}
			return c.Apply(rules)
		})
	}
	a.unfinished = true
	if len(rules) == 0 || a.alias != (alias{}) { // ensureHost holds the lock of a pod with an alias
		return apply()
	}
	return a.h.locked(ctx, shared, apply)
}

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
	if err := a.setIndex(within); err != nil {
		return err
	}
	if changes := append(a.sandboxDrift(within), a.hostDrift(node)...); len(changes) > 0 {
		return &DriftError{Changes: changes}
	}
	return nil
}

// hostDrift returns the changes that make the host side what the pod needs.
func (a *addition) hostDrift(have netstate.State) []netstate.Change {
	return netstate.Diff(a.owned.of(have), settingsOf(have.Sysctls).effective(a.host))
}

// sandboxDrift returns the changes that make the sandbox what the pod needs. Items of the
// sandbox that are not in the place of one that the pod needs belong to the pod itself
// and its other plugins.
func (a *addition) sandboxDrift(have netstate.State) []netstate.Change {
	return netstate.Diff(netstate.Counterparts(have, a.sandbox), settingsOf(have.Sysctls).effective(a.sandbox))
}

// observeNet is Observe without nftables and without the node's settings, which have
// nothing to do with a pod.
func (h *kernel) observeNet(ctx context.Context) (netstate.State, error) {
	var o rtnl.Observation
	err := h.withConn(ctx, func(c *rtnl.Conn) (err error) {
		o, err = c.Observe()
		return err
	})
	return o.State, err
}
