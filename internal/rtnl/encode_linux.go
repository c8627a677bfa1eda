// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// From linux/veth.h, linux/rtnetlink.h and linux/if_link.h.
const (
	vethInfoPeer    = 1
	filterSkipStats = 1 << 3
	addrGenModeNone = 1
)

// Batch is a row of route netlink requests that go to the kernel in one system
// call. It goes through them in order; one that fails does not stop the others.
type Batch struct {
	Buf    []byte
	Starts []int
}

// Add appends one request: kind and flags, the fixed header, and what attrs
// appends.
func (b *Batch) Add(kind, flags uint16, header []byte, attrs func()) {
	at := len(b.Buf)
	b.Starts = append(b.Starts, at)
	b.Buf = append(b.Buf, make([]byte, unix.NLMSG_HDRLEN)...)
	b.Buf = append(b.Buf, header...)
	b.pad()
	if attrs != nil {
		attrs()
	}
	binary.NativeEndian.PutUint32(b.Buf[at:], uint32(len(b.Buf)-at))
	binary.NativeEndian.PutUint16(b.Buf[at+4:], kind)
	binary.NativeEndian.PutUint16(b.Buf[at+6:], flags|unix.NLM_F_REQUEST)
}

func (b *Batch) pad() {
	for len(b.Buf)%4 != 0 {
		b.Buf = append(b.Buf, 0)
	}
}

// Attr appends one attribute.
func (b *Batch) Attr(kind uint16, value []byte) {
	b.Buf = binary.NativeEndian.AppendUint16(b.Buf, uint16(4+len(value)))
	b.Buf = binary.NativeEndian.AppendUint16(b.Buf, kind)
	b.Buf = append(b.Buf, value...)
	b.pad()
}

func (b *Batch) Attr32(kind uint16, v uint32) {
	b.Attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (b *Batch) attrText(kind uint16, s string) { b.Attr(kind, append([]byte(s), 0)) }

// nest appends an attribute made of what f appends.
func (b *Batch) nest(kind uint16, f func()) {
	at := len(b.Buf)
	b.Buf = append(b.Buf, 0, 0, 0, 0)
	f()
	binary.NativeEndian.PutUint16(b.Buf[at:], uint16(len(b.Buf)-at))
	binary.NativeEndian.PutUint16(b.Buf[at+2:], kind)
}

const (
	Ack     = unix.NLM_F_ACK
	Create  = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	Replace = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_REPLACE
)

// pick returns kind and flags for adding or deleting.
func pick(op netstate.Op, add, del, addFlags uint16) (kind, flags uint16) {
	if op == netstate.OpAdd {
		return add, addFlags
	}
	return del, Ack
}

// LinkHeader is struct ifinfomsg.
func LinkHeader(index int, flags, change uint32) []byte {
	h := make([]byte, 16)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return h
}

// FindLink asks for the link of a name, without its counters.
func (b *Batch) FindLink(name string) {
	b.Add(unix.RTM_GETLINK, Ack, LinkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.Attr32(unix.IFLA_EXT_MASK, filterSkipStats)
	})
}

// lookAt asks for a link by number.
func (b *Batch) FindIndex(index int) {
	b.Add(unix.RTM_GETLINK, Ack, LinkHeader(index, 0, 0), func() { b.Attr32(unix.IFLA_EXT_MASK, filterSkipStats) })
}

func (b *Batch) DeleteLink(index int) {
	b.Add(unix.RTM_DELLINK, Ack, LinkHeader(index, 0, 0), nil)
}

// NoLinkLocal keeps a link from making an IPv6 link-local address when it comes
// up, with its duplicate address detection and multicast reports: the host side
// of a pod needs none.
func (b *Batch) NoLinkLocal(index int) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() {
		b.nest(unix.IFLA_AF_SPEC, func() {
			b.nest(unix.AF_INET6, func() {
				b.Attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenModeNone})
			})
		})
	})
}

// SetLink asks for the settings of l on a link that exists. An ENI keeps its
// MAC and its group, and a link without MAC in l its own.
func (b *Batch) SetLink(index int, l netstate.Link) {
	var flags uint32
	if l.Up {
		flags = unix.IFF_UP
	}
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, flags, unix.IFF_UP), func() {
		if l.MTU != 0 {
			b.Attr32(unix.IFLA_MTU, uint32(l.MTU))
		}
		if l.Kind == "veth" || l.Virtual() {
			b.Attr32(unix.IFLA_GROUP, uint32(l.Group))
			if mac, err := net.ParseMAC(l.MAC); err == nil {
				b.Attr(unix.IFLA_ADDRESS, mac)
			}
		}
		if l.Alias != "" {
			b.attrText(unix.IFLA_IFALIAS, l.Alias)
		}
	})
}

// Group puts a link into a link group.
func (b *Batch) Group(index, group int) {
	b.Add(unix.RTM_SETLINK, Ack, LinkHeader(index, 0, 0), func() { b.Attr32(unix.IFLA_GROUP, uint32(group)) })
}

func FamilyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Address is struct ifaddrmsg and its attributes. No duplicate address
// detection: the VPC gives out each address once, and it would cost a second.
func (b *Batch) Address(op netstate.Op, index int, a netstate.Address) {
	kind, flags := pick(op, unix.RTM_NEWADDR, unix.RTM_DELADDR, Replace)
	h := []byte{FamilyOf(a.Prefix.Addr()), uint8(a.Prefix.Bits()), 0, 0}
	h = binary.NativeEndian.AppendUint32(h, uint32(index))
	b.Add(kind, flags, h, func() {
		ip := a.Prefix.Addr().AsSlice()
		b.Attr(unix.IFA_LOCAL, ip)
		b.Attr(unix.IFA_ADDRESS, ip)
		var f uint32
		if a.NoPrefixRoute {
			f |= unix.IFA_F_NOPREFIXROUTE
		}
		if a.Prefix.Addr().Is6() {
			f |= unix.IFA_F_NODAD
		}
		b.Attr32(unix.IFA_FLAGS, f)
	})
}

// Neighbor is struct ndmsg and its attributes.
func (b *Batch) Neighbor(op netstate.Op, index int, n netstate.Neighbor) {
	kind, flags := pick(op, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, Replace)
	h := []byte{FamilyOf(n.Addr), 0, 0, 0}
	h = binary.NativeEndian.AppendUint32(h, uint32(index))
	h = binary.NativeEndian.AppendUint16(h, unix.NUD_PERMANENT)
	h = append(h, 0, 0)
	b.Add(kind, flags, h, func() {
		b.Attr(unix.NDA_DST, n.Addr.AsSlice())
		if mac, err := net.ParseMAC(n.MAC); err == nil {
			b.Attr(unix.NDA_LLADDR, mac)
		}
	})
}

// routeHeader is struct rtmsg; tables beyond 255 are in an attribute.
func routeHeader(family uint8, dst, src int, rest [5]byte) []byte {
	h := []byte{family, uint8(dst), uint8(src), 0, rest[0], rest[1], rest[2], rest[3]}
	return binary.NativeEndian.AppendUint32(h, 0)
}

// Route asks for a route; flags apply to adding. Index 0 is none.
func (b *Batch) Route(op netstate.Op, index int, r netstate.Route, addFlags uint16) {
	kind, flags := pick(op, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, addFlags)
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	switch {
	case op == netstate.OpDelete:
		scope = unix.RT_SCOPE_NOWHERE
	case r.Dst.Addr().Is4() && !r.Via.IsValid() && r.Type == "":
		scope = unix.RT_SCOPE_LINK
	}
	h := routeHeader(FamilyOf(r.Dst.Addr()), r.Dst.Bits(), 0,
		[5]byte{unix.RT_TABLE_UNSPEC, uint8(r.Protocol), scope, routeTypeNumber(r.Type)})
	b.Add(kind, flags, h, func() {
		b.Attr(unix.RTA_DST, r.Dst.Addr().AsSlice())
		b.Attr32(unix.RTA_TABLE, uint32(r.Table))
		if index != 0 {
			b.Attr32(unix.RTA_OIF, uint32(index))
		}
		if r.Via.IsValid() {
			b.Attr(unix.RTA_GATEWAY, r.Via.AsSlice())
		}
		if r.Src.IsValid() {
			b.Attr(unix.RTA_PREFSRC, r.Src.AsSlice())
		}
		if r.Metric != 0 {
			b.Attr32(unix.RTA_PRIORITY, uint32(r.Metric))
		}
		if r.MTU != 0 && op == netstate.OpAdd {
			b.nest(unix.RTA_METRICS, func() { b.Attr32(unix.RTAX_MTU, uint32(r.MTU)) })
		}
	})
}

// routeTypes are the kernel's route types that State can hold.
var routeTypes = map[uint8]string{
	unix.RTN_UNICAST: "", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
	unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func routeTypeNumber(name string) uint8 {
	for n, s := range routeTypes {
		if s == name {
			return n
		}
	}
	return unix.RTN_UNICAST
}

// Rule is struct fib_rule_hdr and its attributes. Without a table it deletes
// rules of any.
func (b *Batch) Rule(op netstate.Op, r netstate.Rule) {
	kind, flags := pick(op, unix.RTM_NEWRULE, unix.RTM_DELRULE, Create)
	family := uint8(unix.AF_INET)
	if r.IPv6 {
		family = unix.AF_INET6
	}
	h := routeHeader(family, r.To.Bits(), r.From.Bits(), [5]byte{unix.RT_TABLE_UNSPEC, 0, 0, unix.FR_ACT_TO_TBL})
	if !r.To.IsValid() {
		h[1] = 0
	}
	if !r.From.IsValid() {
		h[2] = 0
	}
	b.Add(kind, flags, h, func() {
		b.Attr32(unix.FRA_PRIORITY, uint32(r.Priority))
		if r.To.IsValid() {
			b.Attr(unix.FRA_DST, r.To.Addr().AsSlice())
		}
		if r.From.IsValid() {
			b.Attr(unix.FRA_SRC, r.From.Addr().AsSlice())
		}
		if r.Mark != 0 || r.Mask != 0 {
			b.Attr32(unix.FRA_FWMARK, r.Mark)
			b.Attr32(unix.FRA_FWMASK, r.Mask)
		}
		if r.IIF != "" {
			b.attrText(unix.FRA_IIFNAME, r.IIF)
		}
		if r.IPProto != 0 {
			b.Attr(unix.FRA_IP_PROTO, []byte{uint8(r.IPProto)})
		}
		if r.Table != 0 {
			b.Attr32(unix.FRA_TABLE, uint32(r.Table))
		}
		if r.Protocol != 0 {
			b.Attr(unix.FRA_PROTOCOL, []byte{uint8(r.Protocol)})
		}
	})
}
