// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// From linux/veth.h, linux/rtnetlink.h and linux/if_link.h.
const (
	vethInfoPeer    = 1
	filterSkipStats = 1 << 3
	addrGenModeNone = 1
)

// batch is a row of route netlink requests that go to the kernel in one system
// call. It goes through them in order; one that fails does not stop the others.
type batch struct {
	buf    []byte
	starts []int
}

// add appends one request: kind and flags, the fixed header, and what attrs
// appends.
func (b *batch) add(kind, flags uint16, header []byte, attrs func()) {
	at := len(b.buf)
	b.starts = append(b.starts, at)
	b.buf = append(b.buf, make([]byte, unix.NLMSG_HDRLEN)...)
	b.buf = append(b.buf, header...)
	b.pad()
	if attrs != nil {
		attrs()
	}
	binary.NativeEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at))
	binary.NativeEndian.PutUint16(b.buf[at+4:], kind)
	binary.NativeEndian.PutUint16(b.buf[at+6:], flags|unix.NLM_F_REQUEST)
}

func (b *batch) pad() {
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// attr appends one attribute.
func (b *batch) attr(kind uint16, value []byte) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(4+len(value)))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, kind)
	b.buf = append(b.buf, value...)
	b.pad()
}

func (b *batch) attr32(kind uint16, v uint32) {
	b.attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (b *batch) attrText(kind uint16, s string) { b.attr(kind, append([]byte(s), 0)) }

// nest appends an attribute made of what f appends.
func (b *batch) nest(kind uint16, f func()) {
	at := len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	f()
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
	binary.NativeEndian.PutUint16(b.buf[at+2:], kind)
}

const (
	ack     = unix.NLM_F_ACK
	create  = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	replace = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_REPLACE
)

// pick returns kind and flags for adding or deleting.
func pick(op Op, add, del, addFlags uint16) (kind, flags uint16) {
	if op == OpAdd {
		return add, addFlags
	}
	return del, ack
}

// linkHeader is struct ifinfomsg.
func linkHeader(index int, flags, change uint32) []byte {
	h := make([]byte, 16)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return h
}

// createVeth asks for a veth pair with the sandbox side in the namespace of the
// descriptor. Both are down: the kernel refuses to bring up one end before the
// other knows it.
func (b *batch) createVeth(p Pod, sandbox int) {
	side := func(name string, mac net.HardwareAddr) {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attr(unix.IFLA_ADDRESS, mac)
		if p.MTU != 0 {
			b.attr32(unix.IFLA_MTU, uint32(p.MTU))
		}
	}
	b.add(unix.RTM_NEWLINK, create, linkHeader(0, 0, 0), func() {
		side(p.HostLink(), p.HostMAC())
		b.attr32(unix.IFLA_GROUP, linkGroupWiring)
		b.nest(unix.IFLA_LINKINFO, func() {
			b.attrText(unix.IFLA_INFO_KIND, "veth")
			b.nest(unix.IFLA_INFO_DATA, func() {
				b.nest(vethInfoPeer, func() {
					b.buf = append(b.buf, linkHeader(0, 0, 0)...)
					side(p.sandboxEnd(), p.SandboxMAC())
					b.attr32(unix.IFLA_NET_NS_FD, uint32(sandbox))
				})
			})
		})
	})
}

// findLink asks for the link of a name, without its counters.
func (b *batch) findLink(name string) {
	b.add(unix.RTM_GETLINK, ack, linkHeader(0, 0, 0), func() {
		b.attrText(unix.IFLA_IFNAME, name)
		b.attr32(unix.IFLA_EXT_MASK, filterSkipStats)
	})
}

// lookAt asks for a link by number.
func (b *batch) lookAt(index int) {
	b.add(unix.RTM_GETLINK, ack, linkHeader(index, 0, 0), func() { b.attr32(unix.IFLA_EXT_MASK, filterSkipStats) })
}

func (b *batch) deleteLink(index int) {
	b.add(unix.RTM_DELLINK, ack, linkHeader(index, 0, 0), nil)
}

// noLinkLocal keeps a link from making an IPv6 link-local address when it comes
// up, with its duplicate address detection and multicast reports: the host side
// of a pod needs none.
func (b *batch) noLinkLocal(index int) {
	b.add(unix.RTM_SETLINK, ack, linkHeader(index, 0, 0), func() {
		b.nest(unix.IFLA_AF_SPEC, func() {
			b.nest(unix.AF_INET6, func() {
				b.attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenModeNone})
			})
		})
	})
}

// setLink asks for the settings of l on a link that exists. An ENI keeps its
// MAC and its group, and a link without MAC in l its own.
func (b *batch) setLink(index int, l Link) {
	var flags uint32
	if l.Up {
		flags = unix.IFF_UP
	}
	b.add(unix.RTM_SETLINK, ack, linkHeader(index, flags, unix.IFF_UP), func() {
		if l.MTU != 0 {
			b.attr32(unix.IFLA_MTU, uint32(l.MTU))
		}
		if l.Kind == "veth" || l.virtual() {
			b.attr32(unix.IFLA_GROUP, uint32(l.Group))
			if mac, err := net.ParseMAC(l.MAC); err == nil {
				b.attr(unix.IFLA_ADDRESS, mac)
			}
		}
		if l.Alias != "" {
			b.attrText(unix.IFLA_IFALIAS, l.Alias)
		}
	})
}

// group puts a link into a link group.
func (b *batch) group(index, group int) {
	b.add(unix.RTM_SETLINK, ack, linkHeader(index, 0, 0), func() { b.attr32(unix.IFLA_GROUP, uint32(group)) })
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// address is struct ifaddrmsg and its attributes. No duplicate address
// detection: the VPC gives out each address once, and it would cost a second.
func (b *batch) address(op Op, index int, a Address) {
	kind, flags := pick(op, unix.RTM_NEWADDR, unix.RTM_DELADDR, replace)
	h := []byte{familyOf(a.Prefix.Addr()), uint8(a.Prefix.Bits()), 0, 0}
	h = binary.NativeEndian.AppendUint32(h, uint32(index))
	b.add(kind, flags, h, func() {
		ip := a.Prefix.Addr().AsSlice()
		b.attr(unix.IFA_LOCAL, ip)
		b.attr(unix.IFA_ADDRESS, ip)
		var f uint32
		if a.NoPrefixRoute {
			f |= unix.IFA_F_NOPREFIXROUTE
		}
		if a.Prefix.Addr().Is6() {
			f |= unix.IFA_F_NODAD
		}
		b.attr32(unix.IFA_FLAGS, f)
	})
}

// neighbor is struct ndmsg and its attributes.
func (b *batch) neighbor(op Op, index int, n Neighbor) {
	kind, flags := pick(op, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, replace)
	h := []byte{familyOf(n.Addr), 0, 0, 0}
	h = binary.NativeEndian.AppendUint32(h, uint32(index))
	h = binary.NativeEndian.AppendUint16(h, unix.NUD_PERMANENT)
	h = append(h, 0, 0)
	b.add(kind, flags, h, func() {
		b.attr(unix.NDA_DST, n.Addr.AsSlice())
		if mac, err := net.ParseMAC(n.MAC); err == nil {
			b.attr(unix.NDA_LLADDR, mac)
		}
	})
}

// routeHeader is struct rtmsg; tables beyond 255 are in an attribute.
func routeHeader(family uint8, dst, src int, rest [5]byte) []byte {
	h := []byte{family, uint8(dst), uint8(src), 0, rest[0], rest[1], rest[2], rest[3]}
	return binary.NativeEndian.AppendUint32(h, 0)
}

// route asks for a route; flags apply to adding. Index 0 is none.
func (b *batch) route(op Op, index int, r Route, addFlags uint16) {
	kind, flags := pick(op, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, addFlags)
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	switch {
	case op == OpDelete:
		scope = unix.RT_SCOPE_NOWHERE
	case r.Dst.Addr().Is4() && !r.Via.IsValid() && r.Type == "":
		scope = unix.RT_SCOPE_LINK
	}
	h := routeHeader(familyOf(r.Dst.Addr()), r.Dst.Bits(), 0,
		[5]byte{unix.RT_TABLE_UNSPEC, uint8(r.Protocol), scope, routeTypeNumber(r.Type)})
	b.add(kind, flags, h, func() {
		b.attr(unix.RTA_DST, r.Dst.Addr().AsSlice())
		b.attr32(unix.RTA_TABLE, uint32(r.Table))
		if index != 0 {
			b.attr32(unix.RTA_OIF, uint32(index))
		}
		if r.Via.IsValid() {
			b.attr(unix.RTA_GATEWAY, r.Via.AsSlice())
		}
		if r.Src.IsValid() {
			b.attr(unix.RTA_PREFSRC, r.Src.AsSlice())
		}
		if r.Metric != 0 {
			b.attr32(unix.RTA_PRIORITY, uint32(r.Metric))
		}
		if r.MTU != 0 && op == OpAdd {
			b.nest(unix.RTA_METRICS, func() { b.attr32(unix.RTAX_MTU, uint32(r.MTU)) })
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

// rule is struct fib_rule_hdr and its attributes. Without a table it deletes
// rules of any.
func (b *batch) rule(op Op, r Rule) {
	kind, flags := pick(op, unix.RTM_NEWRULE, unix.RTM_DELRULE, create)
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
	b.add(kind, flags, h, func() {
		b.attr32(unix.FRA_PRIORITY, uint32(r.Priority))
		if r.To.IsValid() {
			b.attr(unix.FRA_DST, r.To.Addr().AsSlice())
		}
		if r.From.IsValid() {
			b.attr(unix.FRA_SRC, r.From.Addr().AsSlice())
		}
		if r.Mark != 0 || r.Mask != 0 {
			b.attr32(unix.FRA_FWMARK, r.Mark)
			b.attr32(unix.FRA_FWMASK, r.Mask)
		}
		if r.IIF != "" {
			b.attrText(unix.FRA_IIFNAME, r.IIF)
		}
		if r.IPProto != 0 {
			b.attr(unix.FRA_IP_PROTO, []byte{uint8(r.IPProto)})
		}
		if r.Table != 0 {
			b.attr32(unix.FRA_TABLE, uint32(r.Table))
		}
		if r.Protocol != 0 {
			b.attr(unix.FRA_PROTOCOL, []byte{uint8(r.Protocol)})
		}
	})
}
