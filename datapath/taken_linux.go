// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// taken says that an address is another's.
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

// refuseTaken returns ErrAddressTaken if an address of a new pod with a veth pair is
// another pod's or the node's own.
func (h *Handle) refuseTaken(ctx context.Context, p Pod) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		found, err := lookupAddrs(c, p.addrs())
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := refuseUse(c, p, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// refuseUse judges one use of an address of p.
func refuseUse(c *rtnl.Conn, p Pod, f foundUse) error {
	switch {
	case claims.Ending(f.link.Group):
		return nil
	case f.Local:
		return taken(f.Addr, f.Link, true)
	case p.ownsLink(f.Link):
		return nil
	case f.link.Kind == "bridge":
		owner, err := bridgeOwner(c, p, f)
		if err != nil || owner == "" {
			return err
		}
		return taken(f.Addr, owner, false)
	}
	return taken(f.Addr, f.Link, false)
}

// bridgeOwner returns the host link of the pod to which a bridge delivers an address
// of p, "" if that is p or the pod has ended.
func bridgeOwner(c *rtnl.Conn, p Pod, f foundUse) (string, error) {
	var b rtnl.Batch
	header := make([]byte, 12)
	header[0] = rtnl.FamilyOf(f.Addr)
	binary.NativeEndian.PutUint32(header[4:], uint32(f.link.Index))
	b.Add(unix.RTM_GETNEIGH, rtnl.Ack, header, func() { b.Attr(unix.NDA_DST, f.Addr.AsSlice()) })
	answers, err := c.Do(&b)
	if err != nil {
		return "", err
	}
	if answers[0].Err == nil {
		n, permanent, err := rtnl.ParseNeighbor(answers[0].Data, rtnl.LinkNames{})
		if err != nil || permanent && n.MAC == p.SandboxMAC().String() {
			return "", err
		}
	}
	o, err := rtnl.DumpLinks(c)
	if err != nil {
		return "", err
	}
	for _, l := range o.Indexed {
		its := slices.ContainsFunc(aliasIn(l).podAddrs(), func(a PodAddr) bool { return a.Addr == f.Addr })
		if aliasIn(l).mode == "bridge" && aliasIn(l).link == f.Link && its && !claims.Ending(l.Group) && l.Name != p.HostLink() {
			return l.Name, nil
		}
	}
	return "", nil
}

// refuseTakenMode does for a pod of another mode what refuseTaken does, by all
// routes: some modes have theirs in tables of their own. Repeated says that the pod was
// wired before; then an address of it on the node is a damage, as it always is on a
// link that is the pod's.
func refuseTakenMode(c *rtnl.Conn, p Pod, repeated bool) error {
	o, err := rtnl.ObserveRoutes(c)
	if err != nil {
		return err
	}
	index := map[string]rtnl.Link{}
	for _, l := range o.Indexed {
		index[l.Name] = l
	}
	if err := refuseVLAN(p, index); err != nil {
		return err
	}
	o.Neighbors = nil // a bridge keeps those of pods that have ended
	for _, u := range usesOf(o.State, p.Wiring().Addrs) {
		if u.Local && (repeated || p.ownsLink(u.Link) || p.Mode.Whole != nil && u.Link == p.Mode.Whole.ENI.Link) {
			continue
		}
		if err := refuseUse(c, p, foundUse{u, index[u.Link]}); err != nil {
			return err
		}
	}
	return nil
}

// refuseVLAN refuses the link of a branch ENI that belongs to another pod.
func refuseVLAN(p Pod, links map[string]rtnl.Link) error {
	if p.Mode.Branch == nil {
		return nil
	}
	owner := aliasIn(links[p.Mode.Branch.Link()]).owner
	if l, ok := links[owner]; ok && owner != p.HostLink() && !claims.Ending(l.Group) {
		return fmt.Errorf("%w: link %s of the branch ENI belongs to pod %s", ErrAddressTaken, p.Mode.Branch.Link(), owner)
	}
	return nil
}

// claimTries bounds how often a route is claimed that ended pods, or ADDs at the same
// time, have.
const claimTries = 10

// claimRoutes adds routes to single addresses by the link of that number. The kernel
// makes a route only if the table has none to the address, so that of two links one
// gets it. Routes of pods that have ended make room.
func claimRoutes(c *rtnl.Conn, p Pod, index int, routes []netstate.Route) error {
	for _, r := range routes {
		err := claimRoute(c, index, r, rtnl.Create)
		for try := 1; errors.Is(err, unix.EEXIST) && try < claimTries; try++ {
			own, e := makeRoom(c, p, index, r)
			if e != nil {
				return e
			}
			flags := uint16(rtnl.Create)
			if own {
				flags = rtnl.Replace // a call at the same time for the same pod, or Watch, made it
			}
			err = claimRoute(c, index, r, flags)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
		}
	}
	return nil
}

func claimRoute(c *rtnl.Conn, index int, r netstate.Route, flags uint16) error {
	var b rtnl.Batch
	b.Route(netstate.OpAdd, index, r, flags)
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	return answers[0].Err
}

// clearOther deletes routes of pods that have ended from the table of the other
// layout. A pod that is there may be unknown there, and is not forgotten for it.
func clearOther(c *rtnl.Conn, p Pod, index int) error {
	for _, r := range staleRoutes(p) {
		if _, err := makeRoom(c, p, index, r); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom deletes the route in the place of r, a route of p, unless it leads to
// another pod or is p's own already. In a table where p has none, routes of other
// programs stay.
func makeRoom(c *rtnl.Conn, p Pod, index int, r netstate.Route) (own bool, err error) {
	var inPlace []rtnl.FibMatch
	var b rtnl.Batch
	header := make([]byte, 12)
	header[0] = rtnl.FamilyOf(r.Dst.Addr())
	b.Add(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header, func() { b.Attr32(unix.RTA_TABLE, uint32(r.Table)) })
	err = c.Dump(&b, func(body []byte) error {
		m, err := rtnl.ParseFibMatch(body)
		if m.Key() == r.Key() {
			inPlace = append(inPlace, m)
		}
		return err
	})
	if err != nil && !rtnl.IsGone(err) {
		return false, fmt.Errorf("list routes: %w", err)
	}
	for _, m := range inPlace {
		if m.Index == index && m.Type == "" {
			own = true
			continue
		}
		if err := makeRoomOf(c, p, m); err != nil {
			return own, err
		}
	}
	return own, nil
}

// makeRoomOf deletes a route of a pod that has ended, or to no pod.
func makeRoomOf(c *rtnl.Conn, p Pod, m rtnl.FibMatch) error {
	if leadsToOne(m.Route) {
		found := []foundUse{{Use{Addr: m.Dst.Addr()}, rtnl.Link{Index: m.Index}}}
		if err := nameLinks(c, found); err != nil {
			return err
		}
		if err := refuseUse(c, p, found[0]); err != nil {
			return err
		}
	}
	if m.Protocol != claims.RouteProtocol && !slices.ContainsFunc(p.HostState().Routes, func(r netstate.Route) bool { return r.Key() == m.Key() }) {
		return nil
	}
	var b rtnl.Batch
	out := m.Index
	if m.Type != "" {
		out = 0
	}
	b.Route(netstate.OpDelete, out, m.Route, 0)
	answers, err := c.Do(&b)
	if err == nil && answers[0].Err != nil && !rtnl.IsGone(answers[0].Err) {
		err = fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpDelete, Item: m.Route}, answers[0].Err)
	}
	return err
}
