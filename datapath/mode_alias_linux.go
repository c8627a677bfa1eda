// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// setAlias sets the alias of a link.
func (h *Handle) setAlias(ctx context.Context, index int, text string) error {
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.alias(index, text)
		answers, err := c.do(&b)
		if err == nil {
			err = answers[0].err
		}
		if err != nil {
			return fmt.Errorf("set alias: %w", err)
		}
		return nil
	})
}

func (b *batch) alias(index int, text string) {
	b.add(unix.RTM_SETLINK, ack, linkHeader(index, 0, 0), func() { b.attrText(unix.IFLA_IFALIAS, text) })
}

// mark gives a further link of a pod its alias and its alternative name in one
// system call, so that no kill comes between; it may be that which makes the link.
// Kernels before 5.5 have no alternative names.
func (b *batch) mark(name string, a alias) {
	header := linkHeader(0, 0, 0)
	b.add(unix.RTM_SETLINK, ack, header, func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attrText(unix.IFLA_IFALIAS, a.String())
	})
	b.add(unix.RTM_NEWLINKPROP, create|unix.NLM_F_APPEND, header, func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.altName(a)
	})
}

// unmark takes back what mark did.
func (b *batch) unmark(index int, a alias) {
	b.alias(index, "")
	b.add(unix.RTM_DELLINKPROP, ack, linkHeader(index, 0, 0), func() { b.altName(a) })
}

func (b *batch) altName(a alias) {
	b.nest(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, func() { b.attrText(unix.IFLA_ALT_IFNAME, a.altName()) })
}

// markLink marks a link that is there.
func (h *Handle) markLink(ctx context.Context, name string, a alias) error {
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.mark(name, a)
		answers, err := c.do(&b)
		if err == nil {
			err = answers[0].err
		}
		if err == nil && !marked(answers[1].err) {
			err = answers[1].err
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
func (h *Handle) aliased(ctx context.Context, owners ...string) (found []kernelLink, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		for _, owner := range owners {
			b.add(unix.RTM_GETLINK, ack, linkHeader(0, 0, 0), func() {
				b.attrText(unix.IFLA_ALT_IFNAME, altName(owner))
				b.attr32(unix.IFLA_EXT_MASK, filterSkipStats)
			})
		}
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if errors.Is(a.err, unix.ENODEV) {
				continue
			}
			if a.err != nil {
				found, err = allAliased(c, owners)
				return err
			}
			l, err := parseLink(a.data)
			if err != nil {
				return err
			}
			if l.alias.owner == owners[i] {
				found = append(found, l)
			}
		}
		return nil
	})
	return found, err
}

// allAliased looks at all links, for kernels without alternative names.
func allAliased(c *conn, owners []string) (found []kernelLink, err error) {
	o, err := dumpLinks(c)
	for _, l := range o.links {
		for _, owner := range owners {
			if l.alias.owner == owner {
				found = append(found, l)
			}
		}
	}
	return found, err
}
