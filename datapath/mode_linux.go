// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// addMode wires a pod of any mode but the plain veth pair: its links, each made
// or found where it is, then both sides.
func (h *Handle) addMode(ctx context.Context, p Pod, inside *Handle) (err error) {
	if p, err = h.resolvePod(ctx, p); err != nil {
		return err
	}
	repeated, err := h.wiredBefore(ctx, p, inside)
	if err == nil {
		err = h.withConn(ctx, func(c *rtnl.Conn) error { return refuseTakenMode(c, p, repeated) })
	}
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done && !errors.Is(err, ErrInterfaceTaken) {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = errors.Join(err, h.DelPod(undo, p))
		}
	}()
	pair, err := h.place(ctx, p, inside)
	if err != nil {
		return err
	}
	if err := inside.repairInside(ctx, p); err != nil {
		return err
	}
	if err := h.applyHost(ctx, p, repeated); err != nil {
		return err
	}
	if p.Mode.Whole != nil {
		err = inside.waitENI(ctx, p.IfName)
	} else {
		err = h.waitPair(ctx, inside, pair)
	}
	done = err == nil
	return err
}

// wiredBefore reports whether an AddPod of p has come to its end.
func (h *Handle) wiredBefore(ctx context.Context, p Pod, inside *Handle) (bool, error) {
	if p.Mode.Whole != nil {
		l, err := inside.findLink(ctx, p.IfName)
		return l.Index != 0 && l.MAC == p.Mode.Whole.ENI.MAC.String(), err
	}
	l, err := h.findLink(ctx, p.HostLink())
	return l.Index != 0 && l.Group == 0, err
}

// resolvePod finds the links of the pod's ENIs by MAC. A whole ENI that is in the
// sandbox already has none here.
func (h *Handle) resolvePod(ctx context.Context, p Pod) (Pod, error) {
	if r, err := p.Resolve(nil); err == nil {
		return r, nil
	}
	s, err := h.observeLinks(ctx)
	if err != nil {
		return p, err
	}
	r, err := p.Resolve(s.Links)
	if p.Mode.Whole != nil && errors.Is(err, ErrNoLink) {
		return r, nil
	}
	return r, err
}

func (h *Handle) observeLinks(ctx context.Context) (o rtnl.Observation, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		o, err = rtnl.DumpLinks(c)
		return err
	})
	return o, err
}

// place makes the links of both sides, or moves them to where they belong, and
// returns the veth pair if the mode has one. What else belongs to the pod is told
// by aliases before it is made, so that DelPod finds it.
func (h *Handle) place(ctx context.Context, p Pod, inside *Handle) (rtnl.Link, error) {
	if p.Mode.Whole != nil {
		return rtnl.Link{}, h.lendENI(ctx, p, inside)
	}
	pair, err := h.ensurePair(ctx, p, inside)
	if err != nil {
		return pair, err
	}
	if err := h.setAlias(ctx, pair.Index, aliasOf(p).String()); err != nil {
		return pair, err
	}
	for _, l := range p.HostState().Links {
		if !l.Virtual() {
			continue
		}
		if err := h.ensureVirtual(ctx, l); err != nil {
			return pair, err
		}
	}
	if p.Mode.IPVLAN != nil {
		err = h.ensureIPVLAN(ctx, p, inside)
	}
	return pair, err
}

// ensurePair makes the veth pair; one that is whole stays.
func (h *Handle) ensurePair(ctx context.Context, p Pod, inside *Handle) (rtnl.Link, error) {
	pair, err := h.createVeth(ctx, p, inside.ns)
	if !errors.Is(err, unix.EEXIST) {
		return pair, err
	}
	whole, err := h.clearRemains(ctx, p, inside)
	if err != nil {
		return pair, err
	}
	if whole {
		return h.findLink(ctx, p.HostLink())
	}
	return h.createVeth(ctx, p, inside.ns)
}

// applyHost gives the links of the node all that belongs to them, and takes away
// the rules that an earlier pod of the same addresses left, and p's addresses from its
// own links, or from whatever link of the node if it was wired before. One such call
// at a time looks whether the addresses are another pod's, and takes them.
func (h *Handle) applyHost(ctx context.Context, p Pod, repeated bool) error {
	s := p.HostState()
	links, rest := s, s
	links.Neighbors, links.Routes, links.Rules = nil, nil, nil
	links.Links = slices.Clone(links.Links)
	for i := range links.Links {
		if links.Links[i].Name == p.HostLink() {
			links.Links[i].Group = claims.LinkGroupWiring
		}
	}
	rest.Links, rest.Sysctls, rest.Rules = nil, nil, nil
	if err := h.Apply(ctx, links.Additions()); err != nil {
		return err
	}
	changes := rest.Additions()
	for _, r := range staleRoutes(p) {
		changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
	}
	return h.locked(ctx, alone, func() error {
		return h.withConn(ctx, func(c *rtnl.Conn) error {
			if err := refuseTakenMode(c, p, repeated); err != nil {
				return err
			}
			if err := evict(c, p, &changes); err != nil {
				return err
			}
			if err := rtnl.Apply(c, changes); err != nil {
				return err
			}
			if err := purgeRules(c, staleRules(p), s.Rules); err != nil || p.Mode.Whole != nil {
				return err
			}
			index, err := rtnl.LinkIndexes(c, []netstate.Change{{Op: netstate.OpAdd, Item: netstate.Link{Name: p.HostLink()}}})
			if err != nil {
				return err
			}
			return wired(c, index[p.HostLink()])
		})
	})
}

// evict adds to changes those that take p's addresses from the node's links, which
// refuseTakenMode has let pass.
func evict(c *rtnl.Conn, p Pod, changes *[]netstate.Change) error {
	o, err := rtnl.ObserveRoutes(c)
	for _, a := range o.Addresses {
		if p.has(netstate.HostPrefix(a.Prefix.Addr())) {
			*changes = append(*changes, netstate.Change{Op: netstate.OpDelete, Item: a})
		}
	}
	return err
}
