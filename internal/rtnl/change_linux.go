// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// BatchSize bounds the requests of one system call, so that the answers fit
// into the socket's buffer.
const BatchSize = 64

// applyRoutes sends changes of links, addresses, neighbours, routes and rules.
func Apply(c *Conn, changes []netstate.Change) error {
	index, err := LinkIndexes(c, changes)
	if err != nil {
		return err
	}
	var (
		b    Batch
		sent []netstate.Change
	)
	for _, ch := range changes {
		name := linkOf(ch.Item)
		if name != "" && index[name] == 0 {
			if ch.Op == netstate.OpDelete {
				continue // it went with its link
			}
			return fmt.Errorf("%s: %w", ch, unix.ENODEV)
		}
		b.Change(ch, index[name])
		sent = append(sent, ch)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if err := settle(sent[i], a.Err); err != nil {
			return fmt.Errorf("%s: %w", sent[i], err)
		}
	}
	return nil
}

// Change appends the request for one change.
func (b *Batch) Change(ch netstate.Change, index int) {
	switch i := ch.Item.(type) {
	case netstate.Link:
		if ch.Op == netstate.OpDelete {
			b.DeleteLink(index)
		} else {
			b.SetLink(index, i)
		}
	case netstate.Address:
		b.Address(ch.Op, index, i)
	case netstate.Neighbor:
		b.Neighbor(ch.Op, index, i)
	case netstate.Route:
		b.Route(ch.Op, index, i, Replace)
	case netstate.Rule:
		b.Rule(ch.Op, i)
	}
}

// settle decides about the kernel's answer to a change. A rule that is there already
// was made by another call just now.
func settle(ch netstate.Change, err error) error {
	if ch.Op == netstate.OpDelete && IsGone(err) || ch.Op == netstate.OpAdd && IsRule(ch.Item) && errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// IsGone reports whether err says that what should be deleted does not exist.
func IsGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
}

// linkOf returns the name of the link that i belongs to, if any.
func linkOf(i netstate.Item) string {
	switch i := i.(type) {
	case netstate.Link:
		return i.Name
	case netstate.Address:
		return i.Link
	case netstate.Neighbor:
		return i.Link
	case netstate.Route:
		return i.Link
	}
	return ""
}

// LinkIndexes finds the numbers of the links that changes name; 0 is no link.
func LinkIndexes(c *Conn, changes []netstate.Change) (map[string]int, error) {
	var (
		b     Batch
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
		b.FindLink(name)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		if a.Err != nil {
			continue
		}
		l, err := ParseLink(a.Data)
		if err != nil {
			return nil, err
		}
		index[order[i]] = l.Index
	}
	return index, nil
}

func IsRule(i netstate.Item) bool {
	_, ok := i.(netstate.Rule)
	return ok
}

// SetGroup puts a link into a link group. One that is gone is fine.
func SetGroup(c *Conn, index, group int) error {
	var b Batch
	b.Group(index, group)
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := answers[0].Err; err != nil && !IsGone(err) {
		return fmt.Errorf("set link group: %w", err)
	}
	return nil
}
