// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// lendENI moves the link of a whole ENI into the sandbox. The move takes its
// addresses and routes away. It is done if the link is there.
func (h *Handle) lendENI(ctx context.Context, p Pod, inside *Handle) error {
	eni := p.Mode.Whole.ENI
	have, err := inside.findLink(ctx, p.IfName)
	switch {
	case err != nil:
		return err
	case have.Index != 0 && have.MAC == eni.MAC.String():
		return nil
	case have.Index != 0:
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
	return h.move(ctx, link.Index, p.IfName, inside.ns)
}

// returnENI brings the link of a whole ENI back from where it is, down and under
// its old name.
func (h *Handle) returnENI(ctx context.Context, from *Handle, link rtnl.Link) error {
	if from != h {
		if err := from.move(ctx, link.Index, aliasIn(link).link, h.ns); err != nil {
			return err
		}
	}
	back, err := h.aliased(ctx, aliasIn(link).owner)
	if err != nil {
		return err
	}
	for _, l := range back {
		if l.AliasText != link.AliasText {
			continue
		}
		if err := h.withConn(ctx, func(c *rtnl.Conn) error { return restore(c, l) }); err != nil {
			return err
		}
	}
	return nil
}

// restore gives a link its name and takes the alias away. The name may have
// gone to another link meanwhile: the MAC still tells what it is.
func restore(c *rtnl.Conn, l rtnl.Link) error {
	var b rtnl.Batch
	b.SetLink(l.Index, netstate.Link{})
	if l.Name != aliasIn(l).link {
		b.Rename(l.Index, aliasIn(l).link)
	}
	b.UnmarkLink(l.Index, aliasIn(l).altName())
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Err != nil && !rtnl.IsGone(a.Err) && !marked(a.Err) {
			return fmt.Errorf("take %s back: %w", l.Name, a.Err)
		}
	}
	return nil
}

// move puts a link into another namespace, under a name. It goes down.
func (h *Handle) move(ctx context.Context, index int, name string, to *os.File) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.SetLink(index, netstate.Link{})
		b.MoveLink(index, name, to)
		answers, err := c.Do(&b)
		for _, a := range answers {
			err = errors.Join(err, a.Err)
		}
		if err != nil {
			return fmt.Errorf("move link to %s as %s: %w", to.Name(), name, err)
		}
		return nil
	})
}
