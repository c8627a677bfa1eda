// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lendENI moves the link of a whole ENI into the sandbox. The move takes its
// addresses and routes away. It is done if the link is there.
func (h *Handle) lendENI(ctx context.Context, p Pod, inside *Handle) error {
	eni := p.Mode.Whole.ENI
	have, err := inside.findLink(ctx, p.IfName)
	switch {
	case err != nil:
		return err
	case have.index != 0 && have.MAC == eni.MAC.String():
		return nil
	case have.index != 0:
		return fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, p.IfName, have.MAC)
	case eni.Link == "":
		return fmt.Errorf("%s with MAC %s: %w", eni.ID, eni.MAC, ErrNoLink)
	}
	link, err := h.findLink(ctx, eni.Link)
	if err != nil {
		return err
	}
	if link.MAC != eni.MAC.String() {
		return fmt.Errorf("%s with MAC %s, not %s: %w", eni.Link, eni.MAC, link.MAC, ErrNoLink)
	}
	if err := h.markLink(ctx, link.Name, aliasOf(p)); err != nil {
		return err
	}
	return h.move(ctx, link.index, p.IfName, inside.ns)
}

// returnENI brings the link of a whole ENI back from where it is, down and under
// its old name.
func (h *Handle) returnENI(ctx context.Context, from *Handle, link kernelLink) error {
	if from != h {
		if err := from.move(ctx, link.index, link.alias.link, h.ns); err != nil {
			return err
		}
	}
	back, err := h.aliased(ctx, link.alias.owner)
	if err != nil {
		return err
	}
	for _, l := range back {
		if l.alias != link.alias {
			continue
		}
		if err := h.withConn(ctx, func(c *conn) error { return restore(c, l) }); err != nil {
			return err
		}
	}
	return nil
}

// restore gives a link its name and takes the alias away. The name may have
// gone to another link meanwhile: the MAC still tells what it is.
func restore(c *conn, l kernelLink) error {
	var b batch
	b.setLink(l.index, Link{})
	if l.Name != l.alias.link {
		b.add(unix.RTM_SETLINK, ack, linkHeader(l.index, 0, 0), func() { b.attrText(unix.IFLA_IFNAME, l.alias.link) })
	}
	b.unmark(l.index, l.alias)
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.err != nil && !isGone(a.err) && !marked(a.err) {
			return fmt.Errorf("take %s back: %w", l.Name, a.err)
		}
	}
	return nil
}

// move puts a link into another namespace, under a name. It goes down.
func (h *Handle) move(ctx context.Context, index int, name string, to *os.File) error {
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.setLink(index, Link{})
		b.add(unix.RTM_SETLINK, ack, linkHeader(index, 0, 0), func() {
			b.attr32(unix.IFLA_NET_NS_FD, uint32(to.Fd()))
			b.attrText(unix.IFLA_IFNAME, name)
		})
		answers, err := c.do(&b)
		for _, a := range answers {
			err = errors.Join(err, a.err)
		}
		if err != nil {
			return fmt.Errorf("move link to %s as %s: %w", to.Name(), name, err)
		}
		return nil
	})
}
