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

// ensureSandbox makes the sandbox what the pod needs, whatever it was. It does not repeat
// what exists already: ipvlan refuses an address that it has.
func (a *addition) ensureSandbox(ctx context.Context) error {
	apply := func(ctx context.Context, changes []netstate.Change) error {
		a.unfinished = true
		return a.inside.Apply(ctx, changes)
	}
	err := converge(ctx, a.inside.observeNet, apply, func(have netstate.State) ([]netstate.Change, error) {
		return a.sandboxDrift(have), nil
	})
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// ensureHost makes the host side what the pod needs, whatever it was: what an earlier pod
// of the same addresses has left goes, and so do the addresses from links of the node, if
// the pod was wired before. An address that another pod has stays with that pod.
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
		if o, err = rtnl.ObserveRoutes(c); err != nil {
			return err
		}
		return a.refuseIn(c, o)
	})
	return o.State, err
}

// hostDriftWiring returns the hostDrift of a pod that is being wired: its host link stays
// in the group of such links until the end, unless a DEL of the pod has begun.
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
	return netstate.Diff(a.owned.of(have), want), nil
}

// applyHost carries out changes of the host side. It claims routes to the pod's addresses
// before rules name these; and if the host link is not as it should be, the link counts as
// being wired until the ADD is done.
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
			return rtnl.Apply(c, rules)
		})
	}
	a.unfinished = true
	if len(rules) == 0 || a.alias != (alias{}) { // ensureHost holds the lock of a pod with an alias
		return apply()
	}
	return a.h.locked(ctx, shared, apply)
}
