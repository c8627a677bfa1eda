// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// taken returns the error for an address that another pod or the node has.
func taken(a netip.Addr, link string, local bool) error {
	if local {
		return fmt.Errorf("%w: %s is on link %s of the node", ErrAddressTaken, a, link)
	}
	return fmt.Errorf("%w: %s leads to link %s", ErrAddressTaken, a, link)
}

// addrs returns the pod's addresses alone.
func (p Pod) addrs() []netip.Addr {
	var list []netip.Addr
	for _, a := range p.Addrs {
		list = append(list, a.Addr)
	}
	return list
}

// refuseTaken returns ErrAddressTaken if another pod or the node itself has an address of
// the pod, according to the kernel's route to that address. It checks only pods that have
// nothing but a new veth pair. For all other pods, refuseIn checks all routes, because some
// modes have routes in tables that the kernel uses for packets from certain links only.
func (a *addition) refuseTaken(ctx context.Context) error {
	if !a.onlyPair() {
		return nil
	}
	return a.h.withConn(ctx, func(c *rtnl.Conn) error {
		found, err := lookupAddrs(c, a.pod.addrs())
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := a.refuseUse(c, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// wiredBefore reports whether an earlier AddPod of the pod was completed.
func (a *addition) wiredBefore(ctx context.Context) (bool, error) {
	if a.pod.peer() == "" {
		l, err := a.inside.findLink(ctx, a.pod.IfName)
		return l.Index != 0 && l.MAC == a.mode.mac(a.pod).String(), err
	}
	l, err := a.h.findLink(ctx, a.pod.HostLink())
	return l.Index != 0 && !claims.Changing(l.Group), err
}

// refuseUse returns ErrAddressTaken if f, a use of an address of the pod, is that of another
// pod or of the node.
func (a *addition) refuseUse(c *rtnl.Conn, f foundUse) error {
	switch {
	case claims.Ending(f.link.Group):
		return nil
	case f.Local:
		return taken(f.Addr, f.Link, true)
	case a.owned.links[f.Link]:
		return nil
	case isBridge(f.link.Link):
		owner, err := bridgeOwner(c, a.pod, f)
		if err != nil || owner == "" {
			return err
		}
		return taken(f.Addr, owner, false)
	}
	err := taken(f.Addr, f.Link, false)
	if f.link.Group == claims.LinkGroupWiring {
		err = contested{err}
	}
	return err
}

// contested is an ErrAddressTaken by a pod that is being added at the same time.
type contested struct{ error }

func (c contested) Unwrap() error { return c.error }

// refuseIn returns ErrAddressTaken if, according to o, another pod or the node has an address
// of the pod. An address on a link of the pod, or on one that moves to the pod, belongs to the
// pod. If an earlier ADD was completed, an address on any other link of the node is damage
// that this ADD repairs.
func (a *addition) refuseIn(c *rtnl.Conn, o rtnl.Observation) error {
	links := map[string]rtnl.Link{}
	for _, l := range o.Indexed {
		links[l.Name] = l
	}
	if err := a.mode.refuse(a.pod, links); err != nil {
		return err
	}
	o.Neighbors = nil // a bridge still has those of pods that have ended
	moved := a.mode.links(a.pod).moved
	for _, u := range usesOf(o.State, a.pod.Wiring().Addrs) {
		if u.Local && (a.repeated || a.owned.links[u.Link] || u.Link == moved) {
			continue
		}
		if err := a.refuseUse(c, foundUse{u, links[u.Link]}); err != nil {
			return err
		}
	}
	return nil
}

// claimTries bounds how often a route is claimed that belongs to ended pods or to
// concurrent ADDs.
const claimTries = 10

// contestTime is how long an ADD waits for a concurrent ADD of another pod to give up an
// address, and contestPause the time between two attempts.
const (
	contestTime  = time.Second
	contestPause = time.Millisecond
)

// claimRoutes adds routes to single addresses by the host link. The kernel adds a route
// only if its table has no route to the address, so one of two links gets the address.
// Routes of pods that have ended are replaced.
//
// Two concurrent ADDs with the same two addresses could each get one of them. The first
// address decides: the ADD that did not get it fails, and the other waits until the
// second address is free.
func (a *addition) claimRoutes(ctx context.Context, c *rtnl.Conn, routes []netstate.Route) error {
	ctx, cancel := context.WithTimeout(ctx, contestTime)
	defer cancel()
	for _, r := range routes {
		err := a.claimRoute(c, r)
		for errors.As(err, new(contested)) && r.Key() != a.host.Routes[0].Key() && ctx.Err() == nil {
			select {
			case <-time.After(contestPause):
			case <-ctx.Done():
			}
			err = a.claimRoute(c, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claimRoute adds one route, see claimRoutes.
func (a *addition) claimRoute(c *rtnl.Conn, r netstate.Route) error {
	err := addRoute(c, a.link.Index, r, (*rtnl.Batch).AddRoute)
	for try := 1; errors.Is(err, unix.EEXIST) && try < claimTries; try++ {
		own, e := a.makeRoom(c, r)
		if e != nil {
			return e
		}
		add := (*rtnl.Batch).AddRoute
		if own {
			add = (*rtnl.Batch).ReplaceRoute // another AddPod of the same pod, or Watch, added it
		}
		err = addRoute(c, a.link.Index, r, add)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
	}
	return nil
}

// addRoute adds a route by method AddRoute or ReplaceRoute of a batch.
func addRoute(c *rtnl.Conn, index int, r netstate.Route, add func(*rtnl.Batch, int, netstate.Route)) error {
	var b rtnl.Batch
	add(&b, index, r)
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	return answers[0].Err
}

// clearOtherLayout deletes routes of pods that have ended from the table of the other
// layout. A pod that still exists may be unknown in this node's layout: its route stays,
// and the address is taken.
func (a *addition) clearOtherLayout(c *rtnl.Conn) error {
	for _, x := range a.pod.Addrs {
		for _, table := range []int{claims.TablePods, netstate.TableMain} {
			r := netstate.Route{Dst: netstate.HostPrefix(x.Addr), Table: table, Protocol: claims.RouteProtocol}
			if a.hasRoute(r.Key()) {
				continue
			}
			if _, err := a.makeRoom(c, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasRoute reports whether the pod needs a route of that key on the node.
func (a *addition) hasRoute(key netstate.RouteKey) bool {
	return slices.ContainsFunc(a.host.Routes, func(r netstate.Route) bool { return r.Key() == key })
}

// makeRoom deletes the routes that have the key of r, a route to an address of the pod. It
// does not delete the pod's own route, and reports whether there is one. It returns
// ErrAddressTaken if a route leads to another pod.
func (a *addition) makeRoom(c *rtnl.Conn, r netstate.Route) (own bool, err error) {
	var inPlace []rtnl.Route
	err = c.EachRouteIn(netstate.FamilyOf(r.Dst.Addr()), r.Table, func(m rtnl.Route) {
		if m.Key() == r.Key() {
			inPlace = append(inPlace, m)
		}
	})
	if err != nil && !rtnl.IsGone(err) {
		return false, fmt.Errorf("list routes: %w", err)
	}
	for _, m := range inPlace {
		if m.LinkIndex == a.link.Index && m.Type == "" {
			own = true
			continue
		}
		if err := a.deleteInPlace(c, m); err != nil {
			return own, err
		}
	}
	return own, nil
}

// deleteInPlace deletes a route to an address of the pod, unless another pod has it. In a
// table where the pod needs no such route, routes of other programs stay.
func (a *addition) deleteInPlace(c *rtnl.Conn, m rtnl.Route) error {
	if leadsToOne(m.Route) {
		found := []foundUse{{Use{Addr: m.Dst.Addr()}, rtnl.Link{Index: m.LinkIndex}}}
		if err := nameLinks(c, found); err != nil {
			return err
		}
		if err := a.refuseUse(c, found[0]); err != nil {
			return err
		}
	}
	if m.Protocol != claims.RouteProtocol && !a.hasRoute(m.Key()) {
		return nil
	}
	var b rtnl.Batch
	out := m.LinkIndex
	if m.Type != "" {
		out = 0
	}
	b.DeleteRoute(out, m.Route)
	answers, err := c.Do(&b)
	if err == nil && answers[0].Err != nil && !rtnl.IsGone(answers[0].Err) {
		err = fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpDelete, Item: m.Route}, answers[0].Err)
	}
	return err
}
