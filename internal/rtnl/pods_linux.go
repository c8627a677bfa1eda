// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// EachRouteIn calls f for each route of one family and table.
func (c *Conn) EachRouteIn(family byte, table int, f func(FibMatch)) error {
	header := make([]byte, 12)
	header[0] = family
	var b Batch
	b.Add(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header, func() { b.Attr32(unix.RTA_TABLE, uint32(table)) })
	return c.Dump(&b, func(body []byte) error {
		m, err := ParseFibMatch(body)
		if err == nil {
			f(m)
		}
		return err
	})
}

// EachRule calls f for each rule of one family.
func (c *Conn) EachRule(family byte, f func(netstate.Rule)) error {
	header := make([]byte, 12)
	header[0] = family
	return c.DumpAll(unix.RTM_GETRULE, header, func(body []byte) error {
		r, err := ParseRule(body)
		if err == nil {
			f(r)
		}
		return err
	})
}

// DeleteLinkGroup deletes all links of a link group in one request. It succeeds if the
// group has no links.
func (c *Conn) DeleteLinkGroup(group int) error {
	var b Batch
	b.Add(unix.RTM_DELLINK, Ack, LinkHeader(0, 0, 0), func() { b.Attr32(unix.IFLA_GROUP, uint32(group)) })
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := answers[0].Err; err != nil && !IsGone(err) {
		return fmt.Errorf("delete links of group %d: %w", group, err)
	}
	return nil
}
