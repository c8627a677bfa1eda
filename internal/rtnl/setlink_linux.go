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

// SetLink asks for the settings of l on the link of a number. An ENI keeps its MAC, its
// group and, unless l.NoARP is set, its ARP; a link keeps its MAC if l has none.
func (b *Batch) SetLink(index int, l netstate.Link) {
	header := nl.IfInfomsg{IfInfomsg: unix.IfInfomsg{Index: int32(index), Change: unix.IFF_UP}}
	if l.Up {
		header.Flags = unix.IFF_UP
	}
	own := l.Kind == "veth" || l.Virtual()
	if own || l.NoARP {
		header.Change |= unix.IFF_NOARP
	}
	if l.NoARP {
		header.Flags |= unix.IFF_NOARP
	}
	b.add(unix.RTM_SETLINK, 0, header.Serialize())
	if l.MTU != 0 {
		b.attr32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if own {
		b.attr32(unix.IFLA_GROUP, uint32(l.Group))
		if mac, err := net.ParseMAC(l.MAC); err == nil {
			b.attr(unix.IFLA_ADDRESS, mac)
		}
	}
	if l.Alias != "" {
		b.attrText(unix.IFLA_IFALIAS, l.Alias)
	}
}

// setLink begins a request that changes what its attributes say. The link is that of a
// number; with 0 an attribute names it.
func (b *Batch) setLink(index int) { b.addLink(unix.RTM_SETLINK, 0, index) }

// Group puts a link into a link group.
func (b *Batch) Group(index, group int) {
	b.setLink(index)
	b.attr32(unix.IFLA_GROUP, uint32(group))
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// NoLinkLocal keeps a link from making an IPv6 link-local address when it comes up,
// and so from duplicate address detection and multicast reports. The host side of a
// pod needs no such address.
func (b *Batch) NoLinkLocal(index int) {
	b.setLink(index)
	spec := b.open(unix.IFLA_AF_SPEC)
	family := b.open(unix.AF_INET6)
	b.attr8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone)
	b.close(family)
	b.close(spec)
}

// inetSetting sets an IPv4 setting of a link, by its number in linux/ip.h (IPV4_DEVCONF_*).
func (b *Batch) inetSetting(link string, id int, value uint32) {
	b.setLink(0)
	b.attrText(unix.IFLA_IFNAME, link)
	spec := b.open(unix.IFLA_AF_SPEC)
	family := b.open(unix.AF_INET)
	settings := b.open(unix.IFLA_INET_CONF)
	b.attr32(id, value)
	b.close(settings)
	b.close(family)
	b.close(spec)
}

// SetMaster makes a link a port of a bridge; master 0 takes it from its bridge.
func (b *Batch) SetMaster(index, master int) {
	b.setLink(index)
	b.attr32(unix.IFLA_MASTER, uint32(master))
}

// Rename gives a link another name.
func (b *Batch) Rename(index int, name string) {
	b.setLink(index)
	b.attrText(unix.IFLA_IFNAME, name)
}

// MoveLink moves a link into another namespace under a name.
func (b *Batch) MoveLink(index int, name string, to *os.File) {
	b.setLink(index)
	b.attr32(unix.IFLA_NET_NS_FD, uint32(to.Fd()))
	b.attrText(unix.IFLA_IFNAME, name)
}

// SetAlias sets the alias of a link.
func (b *Batch) SetAlias(index int, text string) {
	b.setLink(index)
	b.attrText(unix.IFLA_IFALIAS, text)
}

// MarkLink gives the link of a name an alias and an alternative name. It appends two
// requests.
func (b *Batch) MarkLink(name, alias, altName string) {
	b.setLink(0)
	b.attrText(unix.IFLA_IFNAME, name)
	b.attrText(unix.IFLA_IFALIAS, alias)
	b.addLink(unix.RTM_NEWLINKPROP, create|unix.NLM_F_APPEND, 0)
	b.attrText(unix.IFLA_IFNAME, name)
	b.attrAltName(altName)
}

// UnmarkLink takes the alias and an alternative name from a link. It appends two
// requests.
func (b *Batch) UnmarkLink(index int, altName string) {
	b.SetAlias(index, "")
	b.addLink(unix.RTM_DELLINKPROP, 0, index)
	b.attrAltName(altName)
}

func (b *Batch) attrAltName(name string) {
	list := b.open(unix.IFLA_PROP_LIST | unix.NLA_F_NESTED)
	b.attrText(unix.IFLA_ALT_IFNAME, name)
	b.close(list)
}

// DeleteLink deletes a link.
func (b *Batch) DeleteLink(index int) {
	b.addLink(unix.RTM_DELLINK, 0, index)
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
	b.addLink(unix.RTM_DELLINK, 0, 0)
	b.attr32(unix.IFLA_GROUP, uint32(group))
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := answers[0].Err; err != nil && !IsGone(err) {
		return fmt.Errorf("delete links of group %d: %w", group, err)
	}
	return nil
}
