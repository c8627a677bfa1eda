// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// From linux/if_link.h.
const (
	vlanID       = 1 // IFLA_VLAN_ID
	ipvlanMode   = 1 // IFLA_IPVLAN_MODE
	ipvlanModeL2 = 0
)

// applyVirtual makes a virtual link that shall be down, and sets up one that
// shall be up.
func (h *Handle) applyVirtual(ctx context.Context, l Link) error {
	if l.virtual() && !l.Up {
		return h.ensureVirtual(ctx, l)
	}
	have, err := h.findLink(ctx, l.Name)
	if err != nil {
		return err
	}
	if have.index == 0 {
		return fmt.Errorf("%s: %w", Change{OpAdd, l}, unix.ENODEV)
	}
	if have.MAC == l.MAC {
		l.MAC = "" // to set a MAC again costs the link its neighbours
	}
	master, err := h.otherLink(ctx, l.Master)
	if err != nil {
		return err
	}
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.setLink(have.index, l)
		if have.master != master.index {
			b.add(unix.RTM_SETLINK, ack, linkHeader(have.index, 0, 0), func() { b.attr32(unix.IFLA_MASTER, uint32(master.index)) })
		}
		answers, err := c.do(&b)
		for _, a := range answers {
			err = errors.Join(err, a.err)
		}
		return err
	})
}

// otherLink finds a link that must be there; no name is no link.
func (h *Handle) otherLink(ctx context.Context, name string) (link kernelLink, err error) {
	if name == "" {
		return link, nil
	}
	link, err = h.findLink(ctx, name)
	if err == nil && link.index == 0 {
		err = fmt.Errorf("link %s: %w", name, unix.ENODEV)
	}
	return link, err
}

// ensureVirtual makes a link, down. One of the name that is of another kind, or on
// another link, is the remains of something and makes room.
func (h *Handle) ensureVirtual(ctx context.Context, l Link) error {
	parent, err := h.otherLink(ctx, l.Parent)
	if err != nil {
		return err
	}
	have, err := h.findLink(ctx, l.Name)
	if err != nil {
		return err
	}
	if have.index != 0 {
		if have.Kind == l.Kind && have.VLAN == l.VLAN && have.below == parent.index {
			if a := parseAlias(l.Alias); a != (alias{}) {
				return h.markLink(ctx, l.Name, a)
			}
			return nil
		}
		if err := h.deleteLink(ctx, have.index); err != nil {
			return err
		}
	}
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		b.createVirtual(l, parent.index)
		if a := parseAlias(l.Alias); a != (alias{}) {
			b.mark(l.Name, a)
		}
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		return answers[0].err
	})
	if err != nil && !errors.Is(err, unix.EEXIST) { // another AddPod made the bridge
		return fmt.Errorf("%s: %w", Change{OpAdd, l}, err)
	}
	return nil
}

func (b *batch) createVirtual(l Link, parent int) {
	b.add(unix.RTM_NEWLINK, create, linkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, l.Name)
		if mac, err := net.ParseMAC(l.MAC); err == nil {
			b.attr(unix.IFLA_ADDRESS, mac)
		}
		if l.MTU != 0 {
			b.attr32(unix.IFLA_MTU, uint32(l.MTU))
		}
		if parent != 0 {
			b.attr32(unix.IFLA_LINK, uint32(parent))
		}
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, l.Kind)
			if l.VLAN != 0 {
				b.nest(unix.IFLA_INFO_DATA, func() { b.attr(vlanID, binary.NativeEndian.AppendUint16(nil, uint16(l.VLAN))) })
			}
		})
	})
}

// ensureIPVLAN makes the ipvlan link in the sandbox, in L2 mode.
func (h *Handle) ensureIPVLAN(ctx context.Context, p Pod, inside *Handle) error {
	eni := p.Mode.IPVLAN.ENI
	have, err := inside.findLink(ctx, p.IfName)
	switch {
	case err != nil:
		return err
	case have.index == 0:
	case have.Kind == "ipvlan" && have.MAC == eni.MAC.String():
		return nil
	default:
		return fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, p.IfName, have.MAC)
	}
	parent, err := h.otherLink(ctx, eni.Link)
	if err != nil {
		return err
	}
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.createIPVLAN(p.IfName, parent.index, int(inside.ns.Fd()))
		answers, err := c.do(&b)
		if err == nil {
			err = answers[0].err
		}
		if err != nil {
			return fmt.Errorf("create ipvlan link on %s: %w", eni.Link, err)
		}
		return nil
	})
}

func (b *batch) createIPVLAN(name string, parent, sandbox int) {
	b.add(unix.RTM_NEWLINK, create, linkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attr32(unix.IFLA_LINK, uint32(parent))
		b.attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, "ipvlan")
			b.nest(unix.IFLA_INFO_DATA, func() { b.attr(ipvlanMode, binary.NativeEndian.AppendUint16(nil, ipvlanModeL2)) })
		})
	})
}
