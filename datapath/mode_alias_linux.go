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
func (h *Handle) setAlias(ctx context.Context, index int, text string) error {
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

// markLink marks a link that is there.
func (h *Handle) markLink(ctx context.Context, name string, a alias) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.MarkLink(name, a.String(), a.altName())
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		if err == nil && !marked(answers[1].Err) {
			err = answers[1].Err
		}
		if err != nil {
			return fmt.Errorf("set alias of %s: %w", name, err)
		}
		return nil
	})
}

// marked reports whether the answer to an alternative name is as good as success.
func marked(err error) bool {
	return err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EOPNOTSUPP)
}

// aliased returns the further links of the owners.
func (h *Handle) aliased(ctx context.Context, owners ...string) (found []rtnl.Link, err error) {
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
			l, err := rtnl.ParseLink(a.Data)
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

// allAliased looks at all links, for kernels without alternative names.
func allAliased(c *rtnl.Conn, owners []string) (found []rtnl.Link, err error) {
	o, err := rtnl.DumpLinks(c)
	for _, l := range o.Indexed {
		for _, owner := range owners {
			if aliasIn(l).owner == owner {
				found = append(found, l)
			}
		}
	}
	return found, err
}

// aliasIn returns the alias of a link.
func aliasIn(l rtnl.Link) alias { return parseAlias(l.AliasText) }
