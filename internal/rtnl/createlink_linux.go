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
	end := func(name string, mac net.HardwareAddr) []nl.NetlinkRequestData {
		attrs := []nl.NetlinkRequestData{textAttr(unix.IFLA_IFNAME, name), nl.NewRtAttr(unix.IFLA_ADDRESS, mac)}
		if pair.MTU != 0 {
			attrs = append(attrs, uint32Attr(unix.IFLA_MTU, uint32(pair.MTU)))
		}
		return attrs
	}
	peer := nl.NewRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range append(end(pair.Peer, pair.PeerMAC), uint32Attr(unix.IFLA_NET_NS_FD, uint32(sandbox))) {
		peer.AddChild(a)
	}
	attrs := append(end(pair.Name, pair.MAC), uint32Attr(unix.IFLA_GROUP, uint32(pair.Group)), linkInfo("veth", peer))
	b.add(unix.RTM_NEWLINK, create, linkHeader(0), attrs...)
}

// CreateVirtual asks for a virtual link, down, on the link of number parent if that is
// not 0.
func (b *Batch) CreateVirtual(l netstate.Link, parent int) {
	attrs := []nl.NetlinkRequestData{textAttr(unix.IFLA_IFNAME, l.Name)}
	if mac, err := net.ParseMAC(l.MAC); err == nil {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	if l.MTU != 0 {
		attrs = append(attrs, uint32Attr(unix.IFLA_MTU, uint32(l.MTU)))
	}
	if parent != 0 {
		attrs = append(attrs, uint32Attr(unix.IFLA_LINK, uint32(parent)))
	}
	if l.VLAN != 0 {
		attrs = append(attrs, linkInfo(l.Kind, uint16Attr(nl.IFLA_VLAN_ID, uint16(l.VLAN))))
	} else {
		attrs = append(attrs, linkInfo(l.Kind))
	}
	b.add(unix.RTM_NEWLINK, create, linkHeader(0), attrs...)
}

// ipvlanModeL2 is IPVLAN_MODE_L2 of linux/if_link.h.
const ipvlanModeL2 = 0

// CreateIPVLAN asks for an ipvlan link in L2 mode on the link of number parent, in the
// namespace of the descriptor sandbox.
func (b *Batch) CreateIPVLAN(name string, parent, sandbox int) {
	b.add(unix.RTM_NEWLINK, create, linkHeader(0), textAttr(unix.IFLA_IFNAME, name), uint32Attr(unix.IFLA_LINK, uint32(parent)),
		uint32Attr(unix.IFLA_NET_NS_FD, uint32(sandbox)), linkInfo("ipvlan", uint16Attr(nl.IFLA_IPVLAN_MODE, ipvlanModeL2)))
}

// linkInfo returns IFLA_LINKINFO: the kind of a link, and the settings of that kind.
func linkInfo(kind string, data ...nl.NetlinkRequestData) *nl.RtAttr {
	info := nestedAttr(unix.IFLA_LINKINFO, textAttr(nl.IFLA_INFO_KIND, kind))
	if len(data) > 0 {
		info.AddChild(nestedAttr(nl.IFLA_INFO_DATA, data...))
	}
	return info
}
