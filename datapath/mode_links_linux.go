// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// applyVirtual makes a virtual link that shall be down, and sets up one that
// shall be up.
func (h *Handle) applyVirtual(ctx context.Context, l netstate.Link) error {
	if l.Virtual() && !l.Up {
		return h.ensureVirtual(ctx, l)
	}
	have, err := h.findLink(ctx, l.Name)
	if err != nil {
		return err
	}
	if have.Index == 0 {
		return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: l}, unix.ENODEV)
	}
	if have.MAC == l.MAC {
		l.MAC = "" // to set a MAC again costs the link its neighbours
	}
	master, err := h.otherLink(ctx, l.Master)
	if err != nil {
		return err
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.SetLink(have.Index, l)
		if have.MasterIndex != master.Index {
			b.SetMaster(have.Index, master.Index)
		}
		answers, err := c.Do(&b)
		for _, a := range answers {
			err = errors.Join(err, a.Err)
		}
		return err
	})
}

// otherLink finds a link that must be there; no name is no link.
func (h *Handle) otherLink(ctx context.Context, name string) (link rtnl.Link, err error) {
	if name == "" {
		return link, nil
	}
	link, err = h.findLink(ctx, name)
	if err == nil && link.Index == 0 {
		err = fmt.Errorf("link %s: %w", name, unix.ENODEV)
	}
	return link, err
}

// ensureVirtual makes a link, down. One of the name that is of another kind, or on
// another link, is the remains of something and makes room.
func (h *Handle) ensureVirtual(ctx context.Context, l netstate.Link) error {
	parent, err := h.otherLink(ctx, l.Parent)
	if err != nil {
		return err
	}
	have, err := h.findLink(ctx, l.Name)
	if err != nil {
		return err
	}
	if have.Index != 0 {
		if have.Kind == l.Kind && have.VLAN == l.VLAN && have.ParentIndex == parent.Index {
			if a := parseAlias(l.Alias); a != (alias{}) {
				return h.markLink(ctx, l.Name, a)
			}
			return nil
		}
		if err := h.deleteLink(ctx, have.Index); err != nil {
			return err
		}
	}
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.CreateVirtual(l, parent.Index)
		if a := parseAlias(l.Alias); a != (alias{}) {
			b.MarkLink(l.Name, a.String(), a.altName())
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		return answers[0].Err
	})
	if err != nil && !errors.Is(err, unix.EEXIST) { // another AddPod made the bridge
		return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: l}, err)
	}
	return nil
}

// ensureIPVLAN makes the ipvlan link in the sandbox, in L2 mode.
func (h *Handle) ensureIPVLAN(ctx context.Context, p Pod, inside *Handle) error {
	eni := p.Mode.IPVLAN.ENI
	have, err := inside.findLink(ctx, p.IfName)
	switch {
	case err != nil:
		return err
	case have.Index == 0:
	case have.Kind == "ipvlan" && have.MAC == eni.MAC.String():
		return nil
	default:
		return fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, p.IfName, have.MAC)
	}
	parent, err := h.otherLink(ctx, eni.Link)
	if err != nil {
		return err
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.CreateIPVLAN(p.IfName, parent.Index, int(inside.ns.Fd()))
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		if err != nil {
			return fmt.Errorf("create ipvlan link on %s: %w", eni.Link, err)
		}
		return nil
	})
}
