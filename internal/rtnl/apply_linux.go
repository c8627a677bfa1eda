// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Apply carries out changes of links, addresses, neighbours, routes and rules, at most
// BatchSize of them. It succeeds if an object to delete does not exist, or if a rule to
// add does.
func (c *Conn) Apply(changes []netstate.Change) error {
	index, err := c.linkIndexes(changes)
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
				continue // the kernel deleted it with its link
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
		if err := ignoreDone(sent[i], a.Err); err != nil {
			return fmt.Errorf("%s: %w", sent[i], err)
		}
	}
	return nil
}

// ignoreDone returns nil for an answer that says that the change is made already. A
// rule that exists was made by another call just now.
func ignoreDone(ch netstate.Change, err error) error {
	_, link := ch.Item.(netstate.Link)
	if ch.Op == netstate.OpDelete && (IsGone(err) || !link && LacksFamily(err)) || ch.Op == netstate.OpAdd && IsRule(ch.Item) && errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
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

// linkIndexes finds the numbers of the links that changes name. The number of a link
// that does not exist is 0.
func (c *Conn) linkIndexes(changes []netstate.Change) (map[string]int, error) {
	var (
		b     Batch
		index = map[string]int{}
		names []string
	)
	for _, ch := range changes {
		name := linkOf(ch.Item)
		if _, ok := index[name]; name == "" || ok {
			continue
		}
		index[name] = 0
		names = append(names, name)
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
		l, err := a.Link()
		if err != nil {
			return nil, err
		}
		index[names[i]] = l.Index
	}
	return index, nil
}

// IsRule reports whether i is a rule.
func IsRule(i netstate.Item) bool {
	_, ok := i.(netstate.Rule)
	return ok
}
