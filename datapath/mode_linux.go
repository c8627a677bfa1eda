// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// addMode wires a pod of any mode but the plain veth pair: its links, each made
// or found where it is, then both sides.
func (h *Handle) addMode(ctx context.Context, p Pod, inside *Handle) (err error) {
	if p, err = h.resolvePod(ctx, p); err != nil {
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
	if err := h.applyHost(ctx, p); err != nil {
		return err
	}
	if err := h.evict(ctx, p); err != nil {
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

// resolvePod finds the links of the pod's ENIs by MAC. A whole ENI that is in the
// sandbox already has none here.
func (h *Handle) resolvePod(ctx context.Context, p Pod) (Pod, error) {
	if r, err := p.resolve(nil); err == nil {
		return r, nil
	}
	s, err := h.observeLinks(ctx)
	if err != nil {
		return p, err
	}
	r, err := p.resolve(s.Links)
	if p.Mode.Whole != nil && errors.Is(err, ErrNoLink) {
		return r, nil
	}
	return r, err
}

func (h *Handle) observeLinks(ctx context.Context) (o observation, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		o, err = dumpLinks(c)
		return err
	})
	return o, err
}

// place makes the links of both sides, or moves them to where they belong, and
// returns the veth pair if the mode has one. What else belongs to the pod is told
// by aliases before it is made, so that DelPod finds it.
func (h *Handle) place(ctx context.Context, p Pod, inside *Handle) (kernelLink, error) {
	if p.Mode.Whole != nil {
		return kernelLink{}, h.lendENI(ctx, p, inside)
	}
	pair, err := h.ensurePair(ctx, p, inside)
	if err != nil {
		return pair, err
	}
	if err := h.setAlias(ctx, pair.index, aliasOf(p).String()); err != nil {
		return pair, err
	}
	for _, l := range p.HostState().Links {
		if !l.virtual() {
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
func (h *Handle) ensurePair(ctx context.Context, p Pod, inside *Handle) (kernelLink, error) {
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
// the rules that an earlier pod of the same addresses left.
func (h *Handle) applyHost(ctx context.Context, p Pod) error {
	s := p.HostState()
	links, rest := s, s
	links.Neighbors, links.Routes, links.Rules = nil, nil, nil
	rest.Links, rest.Sysctls, rest.Rules = nil, nil, nil
	if err := h.Apply(ctx, links.additions()); err != nil {
		return err
	}
	changes := rest.additions()
	for _, r := range staleRoutes(p) {
		changes = append(changes, Change{OpDelete, r})
	}
	return h.withRules(ctx, s, func(c *conn) error {
		if err := applyRoutes(c, changes); err != nil {
			return err
		}
		return purgeRules(c, staleRules(p), s.Rules)
	})
}
