// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// VethPair describes a veth pair: the end that stays in the namespace of the socket,
// and the peer.
type VethPair struct {
	Name, Peer   string
	MAC, PeerMAC net.HardwareAddr
	// MTU is that of both ends; 0 leaves the kernel's default.
	MTU int
	// Group is the link group of the first end.
	Group int
}

// CreateVeth asks for a veth pair with the peer in the namespace of the descriptor
// sandbox. Both ends are down, because the kernel does not bring up one end before
// both exist.
func (b *Batch) CreateVeth(pair VethPair, sandbox int) {
	b.addLink(unix.RTM_NEWLINK, create, 0)
	b.attrEnd(pair.Name, pair.MAC, pair.MTU)
	b.attr32(unix.IFLA_GROUP, uint32(pair.Group))
	info := b.openLinkInfo("veth")
	data := b.open(nl.IFLA_INFO_DATA)
	peer := b.open(nl.VETH_INFO_PEER)
	b.buf = append(b.buf, make([]byte, unix.SizeofIfInfomsg)...)
	b.attrEnd(pair.Peer, pair.PeerMAC, pair.MTU)
	b.attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
	b.close(peer)
	b.close(data)
	b.close(info)
}

// attrEnd appends the attributes that each end of a veth pair has.
func (b *Batch) attrEnd(name string, mac net.HardwareAddr, mtu int) {
	b.attrText(unix.IFLA_IFNAME, name)
	b.attr(unix.IFLA_ADDRESS, mac)
	if mtu != 0 {
		b.attr32(unix.IFLA_MTU, uint32(mtu))
	}
}

// CreateVirtual asks for a virtual link, down, on the link of number parent if that is
// not 0.
func (b *Batch) CreateVirtual(l netstate.Link, parent int) {
	b.addLink(unix.RTM_NEWLINK, create, 0)
	b.attrText(unix.IFLA_IFNAME, l.Name)
	if mac, err := net.ParseMAC(l.MAC); err == nil {
		b.attr(unix.IFLA_ADDRESS, mac)
	}
	if l.MTU != 0 {
		b.attr32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if parent != 0 {
		b.attr32(unix.IFLA_LINK, uint32(parent))
	}
	info := b.openLinkInfo(l.Kind)
	if l.VLAN != 0 {
		data := b.open(nl.IFLA_INFO_DATA)
		b.attr16(nl.IFLA_VLAN_ID, uint16(l.VLAN))
		b.close(data)
	}
	b.close(info)
}

// ipvlanModeL2 is IPVLAN_MODE_L2 of linux/if_link.h.
const ipvlanModeL2 = 0

// CreateIPVLAN asks for an ipvlan link in L2 mode on the link of number parent, in the
// namespace of the descriptor sandbox.
func (b *Batch) CreateIPVLAN(name string, parent, sandbox int) {
	b.addLink(unix.RTM_NEWLINK, create, 0)
	b.attrText(unix.IFLA_IFNAME, name)
	b.attr32(unix.IFLA_LINK, uint32(parent))
	b.attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
	info := b.openLinkInfo("ipvlan")
	data := b.open(nl.IFLA_INFO_DATA)
	b.attr16(nl.IFLA_IPVLAN_MODE, ipvlanModeL2)
	b.close(data)
	b.close(info)
}

// openLinkInfo begins IFLA_LINKINFO: the kind of a link, then the settings of that kind.
func (b *Batch) openLinkInfo(kind string) (at int) {
	at = b.open(unix.IFLA_LINKINFO)
	b.attrText(nl.IFLA_INFO_KIND, kind)
	return at
}
