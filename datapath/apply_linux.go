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

// Apply: see [Handle.Apply].
func (h *kernel) Apply(ctx context.Context, changes []netstate.Change) error {
	for len(changes) > 0 {
		n, err := h.applySome(ctx, changes)
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// applySome carries out the changes at the beginning of the list that go into one
// request, and returns their number.
func (h *kernel) applySome(ctx context.Context, changes []netstate.Change) (int, error) {
	switch i := changes[0].Item.(type) {
	case netstate.Sysctl:
		set := []netstate.Sysctl{i}
		for _, ch := range changes[1:] {
			next, ok := ch.Item.(netstate.Sysctl)
			if !ok {
				break
			}
			set = append(set, next)
		}
		return len(set), rtnl.WriteSysctls(h.ns, set)
	case netstate.Link:
		if needsOtherLinks(changes[0]) {
			return 1, h.applyVirtual(ctx, i)
		}
	case netstate.Filter:
		return 1, h.applyFilter(ctx, changes[0].Op, i)
	case netstate.Flows:
		return 1, h.applyFlows(ctx, changes[0].Op, i)
	case netstate.FlowLink:
		n := 1
		for n < len(changes) && isFlowLink(changes[n].Item) {
			n++
		}
		return n, h.applyFlowLinks(ctx, changes[:n])
	case netstate.Source:
		n := 1
		for n < len(changes) && isSource(changes[n].Item) {
			n++
		}
		return n, h.applySources(changes[:n])
	}
	n := 1
	for n < min(len(changes), rtnl.BatchSize) && isRouteItem(changes[n].Item) && !needsOtherLinks(changes[n]) {
		n++
	}
	return n, h.withConn(ctx, func(c *rtnl.Conn) error { return c.Apply(changes[:n]) })
}

// needsOtherLinks reports whether a change of a link involves another link: its parent,
// or the bridge that it joins or leaves.
func needsOtherLinks(c netstate.Change) bool {
	l, ok := c.Item.(netstate.Link)
	return ok && c.Op == netstate.OpAdd && l.Kind != ""
}

// isSource reports whether an item is an element of a map of the nftables table.
func isSource(i netstate.Item) bool {
	_, source := i.(netstate.Source)
	return source
}

// isRouteItem reports whether an item is changed by route netlink.
func isRouteItem(i netstate.Item) bool {
	switch i.(type) {
	case netstate.Sysctl, netstate.Filter, netstate.Source, netstate.Flows, netstate.FlowLink:
		return false
	}
	return true
}

// applyVirtual makes a virtual link if l is one that should be down. It gives any other
// link, which must exist, the settings of l and its master.
func (h *kernel) applyVirtual(ctx context.Context, l netstate.Link) error {
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
		l.MAC = "" // setting a MAC again would delete the link's neighbours
	}
	master, err := h.otherLink(ctx, l.Master)
	if err != nil {
		return err
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		if l.NoARP {
			if err := noLinkLocal(c, have.Index); err != nil {
				return err
			}
		}
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

// noLinkLocal keeps a link to pods from making a link-local address. With one, the check of
// sources would pass every link-local source, and the node would learn a neighbour from
// each router solicitation. A kernel without IPv6 refuses the request, which does no harm.
func noLinkLocal(c *rtnl.Conn, index int) error {
	var b rtnl.Batch
	b.NoLinkLocal(index)
	_, err := c.Do(&b)
	return err
}

// otherLink finds a link that must exist. Without a name it returns the zero Link.
func (h *kernel) otherLink(ctx context.Context, name string) (link rtnl.Link, err error) {
	if name == "" {
		return link, nil
	}
	link, err = h.findLink(ctx, name)
	if err == nil && link.Index == 0 {
		err = fmt.Errorf("link %s: %w", name, unix.ENODEV)
	}
	return link, err
}

// ensureVirtual makes a virtual link, down, unless it exists. It deletes a link of the
// name that is of another kind or on another link: remains of an earlier pod. A new link
// refuses router advertisements.
func (h *kernel) ensureVirtual(ctx context.Context, l netstate.Link) error {
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
	if err != nil && !errors.Is(err, unix.EEXIST) { // EEXIST: another AddPod made the bridge
		return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: l}, explainKind(l.Kind, err))
	}
	// It may fail, see setHostSysctls.
	_ = rtnl.WriteSysctls(h.ns, []netstate.Sysctl{refuseRouter(l.Name)})
	return nil
}
