// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// RouteTo returns the route that the kernel chooses for a packet, as `ip route get`
// does, or refused, the reason why there is none. iif is the number of the link that
// the packet comes in by, 0 if the node sends it.
func (c *Conn) RouteTo(q netstate.Query, iif int) (r netstate.Route, refused, err error) {
	var b Batch
	b.routeGet(q, iif)
	answers, err := c.Do(&b)
	if err != nil {
		return r, nil, err
	}
	if answers[0].Err != nil {
		return r, answers[0].Err, nil
	}
	r, err = routeOf(c, answers[0].Data)
	return r, nil, err
}

func (b *Batch) routeGet(q netstate.Query, iif int) {
	header := make([]byte, 12)
	header[0], header[1] = FamilyOf(q.Dst), uint8(q.Dst.BitLen())
	if q.Src.IsValid() {
		header[2] = uint8(q.Src.BitLen())
	}
	if q.Dst.Is4() { // IPv6 always tells the table
		binary.NativeEndian.PutUint32(header[8:], unix.RTM_F_LOOKUP_TABLE)
	}
	b.Add(unix.RTM_GETROUTE, Ack, header, func() {
		b.Attr(unix.RTA_DST, q.Dst.AsSlice())
		if q.Src.IsValid() {
			b.Attr(unix.RTA_SRC, q.Src.AsSlice())
		}
		if q.Mark != 0 {
			b.Attr32(unix.RTA_MARK, q.Mark)
		}
		if iif != 0 {
			b.Attr32(unix.RTA_IIF, uint32(iif))
		}
		switch q.Proto { // the kernel takes no others
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
			b.Attr(unix.RTA_IP_PROTO, []byte{uint8(q.Proto)})
			b.port(unix.RTA_SPORT, q.SrcPort)
			b.port(unix.RTA_DPORT, q.DstPort)
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			b.Attr(unix.RTA_IP_PROTO, []byte{uint8(q.Proto)})
		}
	})
}

func (b *Batch) port(kind, port uint16) {
	if port != 0 {
		b.Attr(kind, binary.BigEndian.AppendUint16(nil, port))
	}
}

// routeOf reads the answer to routeGet.
func routeOf(c *Conn, body []byte) (netstate.Route, error) {
	links := LinkNames{}
	if len(body) >= 12 {
		for kind, v := range Attributes(body[12:]) {
			if kind != unix.RTA_OIF {
				continue
			}
			var b Batch
			b.FindIndex(Number(v))
			answers, err := c.Do(&b)
			if err != nil {
				return netstate.Route{}, err
			}
			if answers[0].Err != nil {
				return netstate.Route{}, answers[0].Err
			}
			l, err := ParseLink(answers[0].Data)
			if err != nil {
				return netstate.Route{}, err
			}
			links[l.Index] = l.Name
		}
	}
	r, _, err := ParseRoute(body, links)
	return r, err
}

// FibMatch asks for the route itself that the kernel finds for an address, and not
// for the packet's way. The mark leads past whatever is not for all packets.
func (b *Batch) FibMatch(a netip.Addr, mark uint32) {
	header := make([]byte, 12)
	header[0], header[1] = FamilyOf(a), uint8(a.BitLen())
	binary.NativeEndian.PutUint32(header[8:], unix.RTM_F_FIB_MATCH)
	b.Add(unix.RTM_GETROUTE, Ack, header, func() {
		b.Attr(unix.RTA_DST, a.AsSlice())
		b.Attr32(unix.RTA_MARK, mark)
	})
}

// FibMatch is the answer to fibMatch: a route with the number of its link.
type FibMatch struct {
	netstate.Route
	Index int
}

func ParseFibMatch(body []byte) (FibMatch, error) {
	r, _, err := ParseRoute(body, LinkNames{})
	if err != nil {
		return FibMatch{}, err
	}
	m := FibMatch{Route: r}
	for kind, v := range Attributes(body[12:]) {
		if kind == unix.RTA_OIF {
			m.Index = Number(v)
		}
	}
	return m, nil
}
