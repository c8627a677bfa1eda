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

func (eniMode) refuse(Pod, map[string]rtnl.Link) error { return nil }

// place moves the link of the ENI into the sandbox, unless it is there already. The move
// takes its addresses and routes away.
func (m eniMode) place(ctx context.Context, a *addition) error {
	have, err := a.inside.findLink(ctx, a.pod.IfName)
	switch {
	case err != nil:
		return err
	case have.Index != 0 && have.MAC == m.ENI.MAC.String():
		return nil
	case have.Index != 0:
		return fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, a.pod.IfName, have.MAC)
	case m.ENI.Link == "":
		return fmt.Errorf("%s with MAC %s: %w", m.ENI.ID, m.ENI.MAC, ErrNoLink)
	}
	link, err := a.h.findLink(ctx, m.ENI.Link)
	if err != nil {
		return err
	}
	if link.MAC != m.ENI.MAC.String() {
		return fmt.Errorf("%s has MAC %q, want %s: %w", m.ENI.Link, link.MAC, m.ENI.MAC, ErrNoLink)
	}
	a.made = true
	if err := a.h.markLink(ctx, link.Name, a.alias); err != nil {
		return err
	}
	return a.h.move(ctx, link.Index, a.pod.IfName, a.inside.ns)
}

// ready waits for the link in the sandbox.
func (m eniMode) ready(ctx context.Context, a *addition) error {
	link, err := a.inside.findLink(ctx, a.pod.IfName)
	if err == nil {
		err = a.inside.withConn(ctx, func(c *rtnl.Conn) error { return c.WaitRunning(ctx, link.Index) })
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// release brings the links of the pod's ENIs back to the node: from the sandbox, or from
// the name and state in which the kernel has returned them when the sandbox ended.
func (m eniMode) release(ctx context.Context, d *deletion) error {
	var errs []error
	for _, l := range d.aliased {
		if aliasIn(l).mode == m.kind() {
			errs = append(errs, d.h.restore(ctx, aliasIn(l)))
		}
	}
	for _, l := range d.aliasedInside {
		if aliasIn(l).mode != m.kind() {
			continue
		}
		err := d.inside.move(ctx, l.Index, aliasIn(l).link, d.h.ns)
		if err == nil {
			err = d.h.restore(ctx, aliasIn(l))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restore takes the links on the node that have an alias down, and gives them the name in
// the alias.
func (h *kernel) restore(ctx context.Context, a alias) error {
	links, err := h.aliased(ctx, a.owner)
	if err != nil {
		return err
	}
	for _, l := range links {
		if aliasIn(l) != a {
			continue
		}
		if err := h.withConn(ctx, func(c *rtnl.Conn) error { return restoreLink(c, l) }); err != nil {
			return err
		}
	}
	return nil
}

// restoreLink gives a link its name and takes the alias away. Another link may have the
// name meanwhile; then the link still has its MAC, by which Resolve finds it.
func restoreLink(c *rtnl.Conn, l rtnl.Link) error {
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
		if a.Err != nil && !rtnl.IsGone(a.Err) && !altNameDone(a.Err) {
			return fmt.Errorf("take %s back: %w", l.Name, a.Err)
		}
	}
	return nil
}

// move puts a link into another namespace, down and under a name.
func (h *kernel) move(ctx context.Context, index int, name string, to *os.File) error {
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
