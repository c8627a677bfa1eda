// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// bridgeOwner returns the host link of the pod to which a bridge delivers an address of
// p, "" if that is p or the pod has ended.
func bridgeOwner(c *rtnl.Conn, p Pod, f foundUse) (string, error) {
	n, permanent, err := c.NeighborOf(f.link.Index, f.Addr)
	if err != nil || permanent && n.MAC == p.SandboxMAC().String() {
		return "", err
	}
	o, err := c.ObserveLinks()
	if err != nil {
		return "", err
	}
	for _, l := range o.Indexed {
		a := aliasIn(l)
		if a.mode != (bridgeMode{}).kind() || a.link != f.Link || claims.Ending(l.Group) || l.Name == p.HostLink() {
			continue
		}
		if slices.ContainsFunc(a.podAddrs(), func(x PodAddr) bool { return x.Addr == f.Addr }) {
			return l.Name, nil
		}
	}
	return "", nil
}

// ready waits for the bridge too. A bridge without another port has just got its carrier,
// and drops packets until the kernel has attached its queue.
func (m bridgeMode) ready(ctx context.Context, a *addition) error {
	if err := a.waitPair(ctx); err != nil || !a.unfinished {
		return err
	}
	bridge, err := a.h.otherLink(ctx, m.link())
	if err != nil {
		return err
	}
	return a.h.withConn(ctx, func(c *rtnl.Conn) error { return c.WaitRunning(ctx, bridge.Index) })
}

// release takes the pod's routes, neighbours and rules from the bridge. The alias of the
// host link names the bridge and the addresses. If the host link is gone, they are taken
// from the default bridge, or that of the pod's mode.
func (m bridgeMode) release(ctx context.Context, d *deletion) error {
	var errs []error
	for _, l := range d.aliased {
		if a := aliasIn(l); a.mode == m.kind() {
			errs = append(errs, d.h.leaveBridge(ctx, d.pod, a))
		}
	}
	if d.link.Index == 0 {
		errs = append(errs, m.releaseLost(ctx, d))
	}
	return errors.Join(errs...)
}

// releaseLost releases a pod that has lost its host link: the addresses that the caller
// named, or else those that the bridge delivers to the pod's MAC. If another program has
// deleted those neighbours too, nothing tells to which pod the routes of the bridge belong:
// they stay, and an ADD with the same address replaces them.
func (m bridgeMode) releaseLost(ctx context.Context, d *deletion) error {
	bridge, err := d.h.findLink(ctx, m.link())
	if err != nil || !isBridge(bridge.Link) {
		return err
	}
	if len(d.pod.Addrs) > 0 {
		return d.h.leaveBridge(ctx, d.pod, m.alias(d.pod))
	}
	var addrs []string
	err = d.h.withConn(ctx, func(c *rtnl.Conn) error {
		return c.EachNeighbor(bridge.Index, func(n netstate.Neighbor) {
			if n.MAC == d.pod.SandboxMAC().String() {
				addrs = append(addrs, n.Addr.String())
			}
		})
	})
	if err != nil || len(addrs) == 0 {
		return err
	}
	return d.h.leaveBridge(ctx, d.pod, alias{link: bridge.Name, addrs: strings.Join(addrs, ",")})
}

// leaveBridge removes the routes, neighbours and rules of the addresses that an alias of
// p names from the bridge that it names, except those of addresses that the bridge
// delivers to another pod by now.
func (h *kernel) leaveBridge(ctx context.Context, p Pod, a alias) error {
	bridge, err := h.findLink(ctx, a.link)
	if err != nil {
		return err
	}
	p.Addrs = a.podAddrs()
	if bridge.Index != 0 {
		err := h.withConn(ctx, func(c *rtnl.Conn) (err error) {
			p.Addrs, err = notDelivered(c, bridge.Index, p)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := h.Apply(ctx, bridgeMode{Bridge: &Bridge{Name: a.link}}.remains(p)); err != nil {
		return err
	}
	if len(p.Addrs) == 0 {
		return nil
	}
	d := &deletion{h: h, pod: p}
	return h.locked(ctx, alone, func() error { return d.purgeAddrs(ctx) })
}

// notDelivered returns the addresses of p that a bridge does not deliver to another pod:
// it has no neighbour entry for them, or p's.
func notDelivered(c *rtnl.Conn, bridge int, p Pod) (addrs []PodAddr, err error) {
	for _, a := range p.Addrs {
		n, found, err := c.NeighborOf(bridge, a.Addr)
		if err != nil {
			return nil, err
		}
		if !found || n.MAC == p.SandboxMAC().String() {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}
