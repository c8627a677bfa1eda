// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// setAlias sets the alias of a link.
func (h *kernel) setAlias(ctx context.Context, index int, text string) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.SetAlias(index, text)
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		if err != nil {
			return fmt.Errorf("set alias: %w", err)
		}
		return nil
	})
}

// markLink gives a link that exists an alias and the alternative name that goes with it.
func (h *kernel) markLink(ctx context.Context, name string, a alias) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.MarkLink(name, a.String(), a.altName())
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		if err == nil && !altNameDone(answers[1].Err) {
			err = answers[1].Err
		}
		if err != nil {
			return fmt.Errorf("set alias of %s: %w", name, err)
		}
		return nil
	})
}

// altNameDone reports whether err, the answer to a request for an alternative name, is as
// good as success: the link has the name already, or the kernel has no such names.
func altNameDone(err error) bool {
	return err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EOPNOTSUPP)
}

// aliased returns the links that have an alias of one of the owners and the alternative
// name that goes with it.
func (h *kernel) aliased(ctx context.Context, owners ...string) (found []rtnl.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		for _, owner := range owners {
			b.FindAltName(altName(owner))
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if errors.Is(a.Err, unix.ENODEV) {
				continue
			}
			if a.Err != nil {
				found, err = allAliased(c, owners)
				return err
			}
			l, err := a.Link()
			if err != nil {
				return err
			}
			if aliasIn(l).owner == owners[i] {
				found = append(found, l)
			}
		}
		return nil
	})
	return found, err
}

// allAliased finds the links with an alias of one of the owners among all links, for
// kernels without alternative names.
func allAliased(c *rtnl.Conn, owners []string) (found []rtnl.Link, err error) {
	o, err := c.ObserveLinks()
	for _, l := range o.Indexed {
		for _, owner := range owners {
			if aliasIn(l).owner == owner {
				found = append(found, l)
			}
		}
	}
	return found, err
}

// aliasIn returns the alias of a link, the zero alias if another program has set it.
func aliasIn(l rtnl.Link) alias { return parseAlias(l.AliasText) }
