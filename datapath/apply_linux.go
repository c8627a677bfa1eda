// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Apply carries out changes in order and stops at the first that fails. A
// deletion of what is gone and an addition of what is there both succeed. To add a
// veth link that does not exist is AddPod's work and fails here.
func (h *Handle) Apply(ctx context.Context, changes []Change) error {
	for len(changes) > 0 {
		n, err := h.applySome(ctx, changes)
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// batchSize bounds the requests of one system call, so that the answers fit
// into the socket's buffer.
const batchSize = 64

// applySome carries out as many changes as go by one way, and counts them.
func (h *Handle) applySome(ctx context.Context, changes []Change) (int, error) {
	switch i := changes[0].Item.(type) {
	case Sysctl:
		return 1, writeSysctls(h.ns, []Sysctl{i})
	case Link:
		if special(changes[0]) {
			return 1, h.applyVirtual(ctx, i)
		}
	case Filter, Source:
		n := 1
		for n < len(changes) && isFilterItem(changes[n].Item) {
			n++
		}
		return n, h.applyFilter(changes[:n])
	}
	n := 1
	for n < min(len(changes), batchSize) && isRouteItem(changes[n].Item) && !special(changes[n]) {
		n++
	}
	return n, h.withConn(ctx, func(c *conn) error { return applyRoutes(c, changes[:n]) })
}

// special reports whether a change of a link concerns other links too: the one
// below it, or the bridge that it shall be a port of or no more.
func special(c Change) bool {
	l, ok := c.Item.(Link)
	return ok && c.Op == OpAdd && l.Kind != ""
}

func isFilterItem(i Item) bool {
	switch i.(type) {
	case Filter, Source:
		return true
	}
	return false
}

func isRouteItem(i Item) bool {
	_, setting := i.(Sysctl)
	return !setting && !isFilterItem(i)
}

// applyRoutes sends changes of links, addresses, neighbours, routes and rules.
func applyRoutes(c *conn, changes []Change) error {
	index, err := linkIndexes(c, changes)
	if err != nil {
		return err
	}
	var (
		b    batch
		sent []Change
	)
	for _, ch := range changes {
		name := linkOf(ch.Item)
		if name != "" && index[name] == 0 {
			if ch.Op == OpDelete {
				continue // it went with its link
			}
			return fmt.Errorf("%s: %w", ch, unix.ENODEV)
		}
		b.change(ch, index[name])
		sent = append(sent, ch)
	}
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if err := settle(sent[i], a.err); err != nil {
			return fmt.Errorf("%s: %w", sent[i], err)
		}
	}
	return nil
}

// change appends the request for one change.
func (b *batch) change(ch Change, index int) {
	switch i := ch.Item.(type) {
	case Link:
		if ch.Op == OpDelete {
			b.deleteLink(index)
		} else {
			b.setLink(index, i)
		}
	case Address:
		b.address(ch.Op, index, i)
	case Neighbor:
		b.neighbor(ch.Op, index, i)
	case Route:
		b.route(ch.Op, index, i, replace)
	case Rule:
		b.rule(ch.Op, i)
	}
}

// settle decides about the kernel's answer to a change. A rule that is there already
// was made by another call just now.
func settle(ch Change, err error) error {
	if ch.Op == OpDelete && isGone(err) || ch.Op == OpAdd && isRule(ch.Item) && errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// isGone reports whether err says that what should be deleted does not exist.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
}

// linkOf returns the name of the link that i belongs to, if any.
func linkOf(i Item) string {
	switch i := i.(type) {
	case Link:
		return i.Name
	case Address:
		return i.Link
	case Neighbor:
		return i.Link
	case Route:
		return i.Link
	}
	return ""
}

// linkIndexes finds the numbers of the links that changes name; 0 is no link.
func linkIndexes(c *conn, changes []Change) (map[string]int, error) {
	var (
		b     batch
		index = map[string]int{}
		order []string
	)
	for _, ch := range changes {
		name := linkOf(ch.Item)
		if _, ok := index[name]; name == "" || ok {
			continue
		}
		index[name] = 0
		order = append(order, name)
		b.findLink(name)
	}
	answers, err := c.do(&b)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		if a.err != nil {
			continue
		}
		l, err := parseLink(a.data)
		if err != nil {
			return nil, err
		}
		index[order[i]] = l.index
	}
	return index, nil
}
