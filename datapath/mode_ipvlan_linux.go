// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// place makes the veth pair on the node and the ipvlan link in the sandbox.
func (m ipvlanMode) place(ctx context.Context, a *addition) error {
	if err := a.placeLinks(ctx); err != nil {
		return err
	}
	have, err := a.inside.findLink(ctx, a.pod.IfName)
	switch {
	case err != nil:
		return err
	case have.Index == 0:
		return m.create(ctx, a)
	case have.Kind == m.kind() && have.MAC == m.ENI.MAC.String():
		return nil
	}
	return fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, a.pod.IfName, have.MAC)
}

// create makes the link in L2 mode on the ENI.
func (m ipvlanMode) create(ctx context.Context, a *addition) error {
	parent, err := a.h.otherLink(ctx, m.ENI.Link)
	if err != nil {
		return err
	}
	a.made = true
	return a.h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.CreateIPVLAN(a.pod.IfName, parent.Index, int(a.inside.ns.Fd()))
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		if err != nil {
			return fmt.Errorf("create ipvlan link on %s: %w", m.ENI.Link, explainKind("ipvlan", err))
		}
		return nil
	})
}

// release deletes the ipvlan link from a sandbox that lives on.
func (m ipvlanMode) release(ctx context.Context, d *deletion) error {
	if d.inside == nil || aliasIn(d.link).mode != m.kind() && d.pod.mode().kind() != m.kind() {
		return nil
	}
	own, err := d.inside.findLink(ctx, d.pod.IfName)
	if err != nil || own.Kind != m.kind() {
		return err
	}
	return d.inside.deleteLink(ctx, own.Index)
}
