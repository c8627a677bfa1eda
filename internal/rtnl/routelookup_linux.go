// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// RouteTo returns the route that the kernel chooses for a packet, as `ip route get`
// does, or refused, the kernel's reason why there is none. The packet comes in by the
// link of number iif; with 0 the node sends it.
func (c *Conn) RouteTo(q netstate.Query, iif int) (r netstate.Route, refused, err error) {
	var b Batch
	b.lookupRoute(q, iif)
	answers, err := c.Do(&b)
	if err != nil {
		return r, nil, err
	}
	if answers[0].Err != nil {
		return r, answers[0].Err, nil
	}
	found, err := answers[0].Route()
	if err != nil || found.LinkIndex == 0 {
		return found.Route, nil, err
	}
	b = Batch{}
	b.FindIndex(found.LinkIndex)
	if answers, err = c.Do(&b); err != nil {
		return netstate.Route{}, nil, err
	}
	link, err := answers[0].Link()
	if err != nil {
		return netstate.Route{}, nil, err
	}
	if found.Link != "" { // the route of a type that refuses packets shows no link
		found.Link = link.Name
	}
	return found.Route, nil, nil
}

// lookupRoute asks for the route of a packet.
func (b *Batch) lookupRoute(q netstate.Query, iif int) {
	header := nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(q.Dst), Dst_len: uint8(q.Dst.BitLen())}}
	if q.Dst.Is4() { // for IPv6 the kernel always reports the table
		header.Flags = unix.RTM_F_LOOKUP_TABLE
	}
	if q.Src.IsValid() {
		header.Src_len = uint8(q.Src.BitLen())
	}
	b.add(unix.RTM_GETROUTE, 0, header.Serialize())
	b.attrAddr(unix.RTA_DST, q.Dst)
	if q.Src.IsValid() {
		b.attrAddr(unix.RTA_SRC, q.Src)
	}
	if q.Mark != 0 {
		b.attr32(unix.RTA_MARK, q.Mark)
	}
	if iif != 0 {
		b.attr32(unix.RTA_IIF, uint32(iif))
	}
	b.attrProtocol(q)
}

// attrProtocol appends the protocol and the ports of a packet. The kernel accepts no
// other protocols than these.
func (b *Batch) attrProtocol(q netstate.Query) {
	switch q.Proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		b.attr8(unix.RTA_IP_PROTO, uint8(q.Proto))
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		b.attr8(unix.RTA_IP_PROTO, uint8(q.Proto))
		b.attrPort(unix.RTA_SPORT, q.SrcPort)
		b.attrPort(unix.RTA_DPORT, q.DstPort)
	}
}

// attrPort appends a port in network byte order, unless it is 0.
func (b *Batch) attrPort(kind int, port uint16) {
	if port != 0 {
		b.attr(kind, binary.BigEndian.AppendUint16(nil, port))
	}
}

// MatchRoute asks for the entry of a route table that the kernel finds for an address,
// instead of the packet's way that it leads to. The kernel looks it up as for a packet
// with the mark.
func (b *Batch) MatchRoute(a netip.Addr, mark uint32) {
	header := nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(a), Dst_len: uint8(a.BitLen()), Flags: unix.RTM_F_FIB_MATCH}}
	b.add(unix.RTM_GETROUTE, 0, header.Serialize())
	b.attrAddr(unix.RTA_DST, a)
	b.attr32(unix.RTA_MARK, mark)
}
