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
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(q.Dst), Dst_len: uint8(q.Dst.BitLen())}}
	if q.Dst.Is4() { // for IPv6 the kernel always reports the table
		header.Flags = unix.RTM_F_LOOKUP_TABLE
	}
	attrs := []nl.NetlinkRequestData{addrAttr(unix.RTA_DST, q.Dst)}
	if q.Src.IsValid() {
		header.Src_len = uint8(q.Src.BitLen())
		attrs = append(attrs, addrAttr(unix.RTA_SRC, q.Src))
	}
	if q.Mark != 0 {
		attrs = append(attrs, uint32Attr(unix.RTA_MARK, q.Mark))
	}
	if iif != 0 {
		attrs = append(attrs, uint32Attr(unix.RTA_IIF, uint32(iif)))
	}
	b.add(unix.RTM_GETROUTE, ack, header, append(attrs, protocolAttrs(q)...)...)
}

// protocolAttrs returns the protocol and the ports of a packet. The kernel accepts no
// other protocols than these.
func protocolAttrs(q netstate.Query) []nl.NetlinkRequestData {
	protocol := uint8Attr(unix.RTA_IP_PROTO, uint8(q.Proto))
	switch q.Proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return []nl.NetlinkRequestData{protocol}
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		attrs := []nl.NetlinkRequestData{protocol}
		if q.SrcPort != 0 {
			attrs = append(attrs, portAttr(unix.RTA_SPORT, q.SrcPort))
		}
		if q.DstPort != 0 {
			attrs = append(attrs, portAttr(unix.RTA_DPORT, q.DstPort))
		}
		return attrs
	}
	return nil
}

func portAttr(kind int, port uint16) *nl.RtAttr {
	return nl.NewRtAttr(kind, binary.BigEndian.AppendUint16(nil, port))
}

// MatchRoute asks for the entry of a route table that the kernel finds for an address,
// instead of the packet's way that it leads to. The kernel looks it up as for a packet
// with the mark.
func (b *Batch) MatchRoute(a netip.Addr, mark uint32) {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(a), Dst_len: uint8(a.BitLen()), Flags: unix.RTM_F_FIB_MATCH}}
	b.add(unix.RTM_GETROUTE, ack, header, addrAttr(unix.RTA_DST, a), uint32Attr(unix.RTA_MARK, mark))
}
