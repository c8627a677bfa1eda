// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net"

	"github.com/vpcnet/vpcnet/internal/rtnl"
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
	}
	return h.markLink(ctx, link, want)
}

// DisownPod: see [Handle.DisownPod].
func (h *kernel) DisownPod(ctx context.Context, p Pod) error {
	l, err := h.findAdopted(ctx, p)
	if err != nil || l.Index == 0 {
		return err
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.UnmarkLink(l.Index, aliasIn(l).altName())
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
		if err == nil && answers[0].Err != nil {
			err = fmt.Errorf("ip link set dev %s name %s: %w", from, to, answers[0].Err)
		}
		return err
	})
}

// findAdopted returns the host link of a pod that another program has wired. Its index is 0
// if there is none.
func (h *kernel) findAdopted(ctx context.Context, p Pod) (rtnl.Link, error) {
	found, err := h.aliased(ctx, p.ownHostLink())
	for _, l := range found {
		if l.Kind == "veth" && aliasIn(l).adopted() {
			return l, err
		}
	}
	return rtnl.Link{}, err
}
