// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// SetLink asks for the settings of l on the link of a number. An ENI keeps its MAC and
// its group, and a link keeps its MAC if l has none.
func (b *Batch) SetLink(index int, l netstate.Link) {
	header := linkHeader(index)
	header.Change = unix.IFF_UP
	if l.Up {
		header.Flags = unix.IFF_UP
	}
	var attrs []nl.NetlinkRequestData
	if l.MTU != 0 {
		attrs = append(attrs, uint32Attr(unix.IFLA_MTU, uint32(l.MTU)))
	}
	if l.Kind == "veth" || l.Virtual() {
		attrs = append(attrs, uint32Attr(unix.IFLA_GROUP, uint32(l.Group)))
		if mac, err := net.ParseMAC(l.MAC); err == nil {
			attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
		}
	}
	if l.Alias != "" {
		attrs = append(attrs, textAttr(unix.IFLA_IFALIAS, l.Alias))
	}
	b.add(unix.RTM_SETLINK, ack, header, attrs...)
}

func (b *Batch) setLinkAttr(index int, attrs ...nl.NetlinkRequestData) {
	b.add(unix.RTM_SETLINK, ack, linkHeader(index), attrs...)
}

// Group puts a link into a link group.
func (b *Batch) Group(index, group int) {
	b.setLinkAttr(index, uint32Attr(unix.IFLA_GROUP, uint32(group)))
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// NoLinkLocal keeps a link from making an IPv6 link-local address when it comes up,
// and so from duplicate address detection and multicast reports. The host side of a
// pod needs no such address.
func (b *Batch) NoLinkLocal(index int) {
	b.setLinkAttr(index, nestedAttr(unix.IFLA_AF_SPEC,
		nestedAttr(unix.AF_INET6, uint8Attr(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone))))
}

// SetMaster makes a link a port of a bridge; master 0 takes it from its bridge.
func (b *Batch) SetMaster(index, master int) {
	b.setLinkAttr(index, uint32Attr(unix.IFLA_MASTER, uint32(master)))
}

// Rename gives a link another name.
func (b *Batch) Rename(index int, name string) {
	b.setLinkAttr(index, textAttr(unix.IFLA_IFNAME, name))
}

// MoveLink moves a link into another namespace under a name.
func (b *Batch) MoveLink(index int, name string, to *os.File) {
	b.setLinkAttr(index, uint32Attr(unix.IFLA_NET_NS_FD, uint32(to.Fd())), textAttr(unix.IFLA_IFNAME, name))
}

// SetAlias sets the alias of a link.
func (b *Batch) SetAlias(index int, text string) {
	b.setLinkAttr(index, textAttr(unix.IFLA_IFALIAS, text))
}

// MarkLink gives the link of a name an alias and an alternative name. It appends two
// requests.
func (b *Batch) MarkLink(name, alias, altName string) {
	b.setLinkAttr(0, textAttr(unix.IFLA_IFNAME, name), textAttr(unix.IFLA_IFALIAS, alias))
	b.add(unix.RTM_NEWLINKPROP, create|unix.NLM_F_APPEND, linkHeader(0), textAttr(unix.IFLA_IFNAME, name), altNames(altName))
}

// UnmarkLink takes the alias and an alternative name from a link. It appends two
// requests.
func (b *Batch) UnmarkLink(index int, altName string) {
	b.SetAlias(index, "")
	b.add(unix.RTM_DELLINKPROP, ack, linkHeader(index), altNames(altName))
}

func altNames(name string) *nl.RtAttr {
	return nestedAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, textAttr(unix.IFLA_ALT_IFNAME, name))
}

// DeleteLink deletes a link.
func (b *Batch) DeleteLink(index int) {
	b.add(unix.RTM_DELLINK, ack, linkHeader(index))
}

// SetLinkGroup puts a link into a link group. It succeeds if the link does not exist.
func (c *Conn) SetLinkGroup(index, group int) error {
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

// DeleteLinkGroup deletes all links of a link group in one request. It succeeds if the
// group has no links.
func (c *Conn) DeleteLinkGroup(group int) error {
	var b Batch
	b.add(unix.RTM_DELLINK, ack, linkHeader(0), uint32Attr(unix.IFLA_GROUP, uint32(group)))
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := answers[0].Err; err != nil && !IsGone(err) {
		return fmt.Errorf("delete links of group %d: %w", group, err)
	}
	return nil
}
