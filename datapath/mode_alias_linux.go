// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// setAlias sets the alias of a link; no text leaves it as it is.
func (h *Handle) setAlias(ctx context.Context, index int, text string) error {
	if text == "" {
		return nil
	}
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

// aliasByName sets the alias of a link that is made in the same row of requests,
// so that no kill comes between.
func (b *batch) aliasByName(name, text string) {
	b.add(unix.RTM_SETLINK, ack, linkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attrText(unix.IFLA_IFALIAS, text)
	})
}

// aliased returns the links whose alias names one of the owners.
func (h *Handle) aliased(ctx context.Context, owners ...string) ([]kernelLink, error) {
	o, err := h.observeLinks(ctx)
	if err != nil {
		return nil, err
	}
	var found []kernelLink
	for _, l := range o.links {
		for _, owner := range owners {
			if l.alias.owner == owner {
				found = append(found, l)
			}
		}
	}
	return found, nil
}
