// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net"
	"os"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// From linux/if_link.h.
const (
	vlanID       = 1 // IFLA_VLAN_ID
	ipvlanMode   = 1 // IFLA_IPVLAN_MODE
	ipvlanModeL2 = 0
)

func (b *Batch) CreateVirtual(l netstate.Link, parent int) {
	b.Add(unix.RTM_NEWLINK, Create, LinkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, l.Name)
		if mac, err := net.ParseMAC(l.MAC); err == nil {
			b.Attr(unix.IFLA_ADDRESS, mac)
		}
		if l.MTU != 0 {
			b.Attr32(unix.IFLA_MTU, uint32(l.MTU))
		}
		if parent != 0 {
			b.Attr32(unix.IFLA_LINK, uint32(parent))
		}
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, l.Kind)
			if l.VLAN != 0 {
				b.nest(unix.IFLA_INFO_DATA, func() { b.Attr(vlanID, binary.NativeEndian.AppendUint16(nil, uint16(l.VLAN))) })
			}
		})
	})
}

func (b *Batch) CreateIPVLAN(name string, parent, sandbox int) {
	b.Add(unix.RTM_NEWLINK, Create, LinkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.Attr32(unix.IFLA_LINK, uint32(parent))
		b.Attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, "ipvlan")
			b.nest(unix.IFLA_INFO_DATA, func() { b.Attr(ipvlanMode, binary.NativeEndian.AppendUint16(nil, ipvlanModeL2)) })
		})
	})
}

// CreateVeth asks for a veth pair with the sandbox side in the namespace of the
// descriptor. Both are down: the kernel refuses to bring up one end before the
// other knows it.
func (b *Batch) CreateVeth(pair VethPair, sandbox int) {
	side := func(name string, mac net.HardwareAddr) {
		b.attrText(unix.IFLA_IFNAME, name)
		b.Attr(unix.IFLA_ADDRESS, mac)
		if pair.MTU != 0 {
			b.Attr32(unix.IFLA_MTU, uint32(pair.MTU))
		}
	}
	b.Add(unix.RTM_NEWLINK, Create, LinkHeader(0, 0, 0), func() {
		side(pair.Name, pair.MAC)
		b.Attr32(unix.IFLA_GROUP, uint32(pair.Group))
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, "veth")
			b.nest(unix.IFLA_INFO_DATA, func() {
				b.nest(vethInfoPeer, func() {
					b.Buf = append(b.Buf, LinkHeader(0, 0, 0)...)
					side(pair.Peer, pair.PeerMAC)
					b.Attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
				})
			})
		})
	})
}

func (b *Batch) SetAlias(index int, text string) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() { b.attrText(unix.IFLA_IFALIAS, text) })
}

func (b *Batch) altName(name string) {
	b.nest(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, func() { b.attrText(unix.IFLA_ALT_IFNAME, name) })
}

// VethPair describes a veth pair: the end that stays in the namespace of the socket,
// and the peer.
type VethPair struct {
	Name, Peer   string
	MAC, PeerMAC net.HardwareAddr
	// MTU of both ends; 0 leaves the kernel's default.
	MTU int
	// Group is the link group of the first end.
	Group int
}

// MarkLink gives a link, found by name, an alias and an alternative name.
func (b *Batch) MarkLink(name, alias, altName string) {
	header := LinkHeader(0, 0, 0)
	b.Add(unix.RTM_SETLINK, Ack, header, func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attrText(unix.IFLA_IFALIAS, alias)
	})
	b.Add(unix.RTM_NEWLINKPROP, Create|unix.NLM_F_APPEND, header, func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.altName(altName)
	})
}

// UnmarkLink takes the alias and the alternative name from a link.
func (b *Batch) UnmarkLink(index int, altName string) {
	b.SetAlias(index, "")
	b.Add(unix.RTM_DELLINKPROP, Ack, LinkHeader(index, 0, 0), func() { b.altName(altName) })
}

// FindAltName asks for the link that has an alternative name.
func (b *Batch) FindAltName(name string) {
	b.Add(unix.RTM_GETLINK, Ack, LinkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_ALT_IFNAME, name)
		b.Attr32(unix.IFLA_EXT_MASK, filterSkipStats)
	})
}

// SetMaster makes a link a port of a bridge; 0 takes it from its bridge.
func (b *Batch) SetMaster(index, master int) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() { b.Attr32(unix.IFLA_MASTER, uint32(master)) })
}

// Rename gives a link another name.
func (b *Batch) Rename(index int, name string) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() { b.attrText(unix.IFLA_IFNAME, name) })
}

// MoveLink puts a link into another namespace under a name.
func (b *Batch) MoveLink(index int, name string, to *os.File) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() {
		b.Attr32(unix.IFLA_NET_NS_FD, uint32(to.Fd()))
		b.attrText(unix.IFLA_IFNAME, name)
	})
}
