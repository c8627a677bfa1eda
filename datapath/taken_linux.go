// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	return h.withConn(ctx, func(c *conn) error {
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
func refuseUse(c *conn, p Pod, f foundUse) error {
	switch {
	case f.link.ended():
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
func bridgeOwner(c *conn, p Pod, f foundUse) (string, error) {
	var b batch
	header := make([]byte, 12)
	header[0] = familyOf(f.Addr)
	binary.NativeEndian.PutUint32(header[4:], uint32(f.link.index))
	b.add(unix.RTM_GETNEIGH, ack, header, func() { b.attr(unix.NDA_DST, f.Addr.AsSlice()) })
	answers, err := c.do(&b)
	if err != nil {
		return "", err
	}
	if answers[0].err == nil {
		n, permanent, err := parseNeighbor(answers[0].data, names{})
		if err != nil || permanent && n.MAC == p.SandboxMAC().String() {
			return "", err
		}
	}
	o, err := dumpLinks(c)
	if err != nil {
		return "", err
	}
	for _, l := range o.links {
		its := slices.ContainsFunc(l.alias.podAddrs(), func(a PodAddr) bool { return a.Addr == f.Addr })
		if l.alias.mode == "bridge" && l.alias.link == f.Link && its && !l.ended() && l.Name != p.HostLink() {
			return l.Name, nil
		}
	}
	return "", nil
}

// refuseTakenMode does for a pod of another mode what refuseTaken does, by all
// routes: some modes have theirs in tables of their own. Repeated says that the pod was
// wired before; then an address of it on the node is a damage, as it always is on a
// link that is the pod's.
func refuseTakenMode(c *conn, p Pod, repeated bool) error {
	o, err := observeRoutes(c)
	if err != nil {
		return err
	}
	index := map[string]kernelLink{}
	for _, l := range o.links {
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
func refuseVLAN(p Pod, links map[string]kernelLink) error {
	if p.Mode.Branch == nil {
		return nil
	}
	owner := links[p.Mode.Branch.Link()].alias.owner
	if l, ok := links[owner]; ok && owner != p.HostLink() && !l.ended() {
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
func claimRoutes(c *conn, p Pod, index int, routes []Route) error {
	for _, r := range routes {
		err := claimRoute(c, index, r, create)
		for try := 1; errors.Is(err, unix.EEXIST) && try < claimTries; try++ {
			own, e := makeRoom(c, p, index, r)
			if e != nil {
				return e
			}
			flags := uint16(create)
			if own {
				flags = replace // a call at the same time for the same pod, or Watch, made it
			}
			err = claimRoute(c, index, r, flags)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", Change{OpAdd, r}, err)
		}
	}
	return nil
}

func claimRoute(c *conn, index int, r Route, flags uint16) error {
	var b batch
	b.route(OpAdd, index, r, flags)
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	return answers[0].err
}

// clearOther deletes routes of pods that have ended from the table of the other
// layout. A pod that is there may be unknown there, and is not forgotten for it.
func clearOther(c *conn, p Pod, index int) error {
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
func makeRoom(c *conn, p Pod, index int, r Route) (own bool, err error) {
	var inPlace []fibMatch
	var b batch
	header := make([]byte, 12)
	header[0] = familyOf(r.Dst.Addr())
	b.add(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header, func() { b.attr32(unix.RTA_TABLE, uint32(r.Table)) })
	err = c.dump(&b, func(body []byte) error {
		m, err := parseFibMatch(body)
		if m.key() == r.key() {
			inPlace = append(inPlace, m)
		}
		return err
	})
	if err != nil && !isGone(err) {
		return false, fmt.Errorf("list routes: %w", err)
	}
	for _, m := range inPlace {
		if m.index == index && m.Type == "" {
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
func makeRoomOf(c *conn, p Pod, m fibMatch) error {
	if m.leadsToOne() {
		found := []foundUse{{Use{Addr: m.Dst.Addr()}, kernelLink{index: m.index}}}
		if err := nameLinks(c, found); err != nil {
			return err
		}
		if err := refuseUse(c, p, found[0]); err != nil {
			return err
		}
	}
	if m.Protocol != RouteProtocol && !slices.ContainsFunc(p.HostState().Routes, func(r Route) bool { return r.key() == m.key() }) {
		return nil
	}
	var b batch
	out := m.index
	if m.Type != "" {
		out = 0
	}
	b.route(OpDelete, out, m.Route, 0)
	answers, err := c.do(&b)
	if err == nil && answers[0].err != nil && !isGone(answers[0].err) {
		err = fmt.Errorf("%s: %w", Change{OpDelete, m.Route}, answers[0].err)
	}
	return err
}
