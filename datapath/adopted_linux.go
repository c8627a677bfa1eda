// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// AdoptPod: see [Handle.AdoptPod].
func (h *kernel) AdoptPod(ctx context.Context, p Pod, link string) error {
	l, err := h.findLink(ctx, link)
	switch {
	case err != nil:
		return fmt.Errorf("adopt %s: %w", link, err)
	case l.Index == 0:
		return fmt.Errorf("adopt %s: %w", link, ErrNoLink)
	}
	mac, err := net.ParseMAC(l.MAC)
	if err == nil {
		err = ValidateMAC(mac)
	}
	had, want := aliasIn(l), p.adoptedAlias(HostSide{l.Name, l.MAC})
	switch {
	case err != nil:
		return fmt.Errorf("adopt %s: %w", link, err)
	case l.Kind != "veth" || had != (alias{}) && had.owner != want.owner:
		return fmt.Errorf("adopt %s: %w: it is of kind %q and has the alias %q", link, ErrInterfaceTaken, l.Kind, l.AliasText)
	case had.owner == want.owner:
		return nil
	case !want.pairOnly():
		return h.setAlias(ctx, l.Index, want.String())
	}
	return h.markLink(ctx, link, want)
}

// DisownPod: see [Handle.DisownPod].
func (h *kernel) DisownPod(ctx context.Context, p Pod) error {
	l, err := h.findAdopted(ctx, p)
	if err != nil {
		return err
	}
	marked, err := h.aliased(ctx, p.owners()...)
	if err != nil {
		return err
	}
	if l.Index == 0 && p.Adopted.Link != "" {
		if l, err = h.findLink(ctx, p.Adopted.Link); err != nil {
			return err
		}
		if !slices.Contains(p.owners(), aliasIn(l).owner) {
			l = rtnl.Link{}
		}
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		for _, m := range append(marked, l) { // the host link is the last one, because the others lead to it
			if m.Index != 0 {
				b.UnmarkLink(m.Index, aliasIn(m).altName())
			}
		}
		return doAll(c, &b)
	})
}

// RenameLink: see [Handle.RenameLink].
func (h *kernel) RenameLink(ctx context.Context, from, to string) error {
	l, err := h.findLink(ctx, from)
	if err != nil || l.Index == 0 {
		return err
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Rename(l.Index, to)
		answers, err := c.Do(&b)
		if err == nil && errors.Is(answers[0].Err, unix.EBUSY) {
			answers, err = renameDown(c, l, to)
		}
		for _, a := range answers {
			if err == nil && a.Err != nil {
				err = fmt.Errorf("ip link set dev %s name %s: %w", from, to, a.Err)
			}
		}
		return err
	})
}

// renameDown renames a link while it is down, which kernels before 6.2 require, and restores the
// routes and permanent neighbours that the kernel drops meanwhile, all in one system call.
func renameDown(c *rtnl.Conn, l rtnl.Link, to string) ([]rtnl.Answer, error) {
	down, b := l.Link, rtnl.Batch{}
	down.Up = false
	b.SetLink(l.Index, down)
	b.Rename(l.Index, to)
	b.SetLink(l.Index, l.Link)
	err := c.EachNeighbor(l.Index, func(n netstate.Neighbor) { b.Neighbor(netstate.OpAdd, l.Index, n) })
	for family := range netstate.Families() {
		if err == nil {
			err = c.EachRouteOver(l.Index, family, func(r netstate.Route) { b.ReplaceRoute(l.Index, r) })
		}
	}
	if err != nil {
		return nil, err
	}
	return c.Do(&b)
}

// findAdopted returns the host link of a pod that another program has wired. Its index is 0
// if there is none.
func (h *kernel) findAdopted(ctx context.Context, p Pod) (rtnl.Link, error) {
	found, err := h.aliased(ctx, p.owners()...)
	if err != nil {
		return rtnl.Link{}, err
	}
	for _, l := range found {
		a := aliasIn(l)
		if a.host != "" {
			if l, err = h.findLink(ctx, a.host); err != nil {
				return rtnl.Link{}, err
			}
		}
		if l.Kind == "veth" && aliasIn(l).adopted() && aliasIn(l).owner == a.owner {
			return l, nil
		}
	}
	return rtnl.Link{}, nil
}
