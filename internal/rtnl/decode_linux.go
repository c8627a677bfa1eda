// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// attributeType is what remains of an attribute's kind without its two flags.
const attributeType = 1<<14 - 1

// Attributes goes through the attributes in b, whose flags it strips.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) & attributeType
			if size < 4 || size > len(b) || !yield(kind, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// Text is a string that may end with a zero byte.
func Text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func Number(b []byte) int {
	switch len(b) {
	case 1:
		return int(b[0])
	case 4:
		return int(binary.NativeEndian.Uint32(b))
	}
	return 0
}

func ParseAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// kernelLink is a link with what is not part of a State: its number, the number
// of the veth's other end, and its settings.
type Link struct {
	netstate.Link
	Index, PeerIndex int
	// below is the link that a VLAN is on, master the bridge that it is a port of.
	ParentIndex, MasterIndex int
	// alias is the text that somebody gave the link.
	AliasText string
	Sysctls   []netstate.Sysctl
}

// ParseLink reads an RTM_NEWLINK body.
func ParseLink(b []byte) (Link, error) {
	l, spec, err := parseLinkAttrs(b)
	if err != nil {
		return l, err
	}
	l.Sysctls = linkSysctls(l.Name, spec)
	return l, nil
}

// ParseLinkOnly reads an RTM_NEWLINK body without the link's settings.
func ParseLinkOnly(b []byte) (Link, error) {
	l, _, err := parseLinkAttrs(b)
	return l, err
}

// parseLinkAttrs returns also IFLA_AF_SPEC, where the settings are.
func parseLinkAttrs(b []byte) (l Link, spec []byte, err error) {
	if len(b) < 16 {
		return l, nil, fmt.Errorf("link message of %d bytes", len(b))
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	l.Up = binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0
	for kind, v := range Attributes(b[16:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = Text(v)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(v).String()
		case unix.IFLA_MTU:
			l.MTU = Number(v)
		case unix.IFLA_GROUP:
			l.Group = Number(v)
		case unix.IFLA_LINK:
			l.PeerIndex = Number(v)
		case unix.IFLA_LINKINFO:
			l.Kind, l.VLAN = parseKind(v)
		case unix.IFLA_MASTER:
			l.MasterIndex = Number(v)
		case unix.IFLA_IFALIAS:
			l.AliasText = Text(v)
		case unix.IFLA_AF_SPEC:
			spec = v
		}
	}
	if l.Kind == "vlan" {
		l.ParentIndex, l.PeerIndex = l.PeerIndex, 0
		l.Alias = l.AliasText
	}
	return l, spec, nil
}

// parseKind reads IFLA_LINKINFO: the kind, and the ID of a VLAN.
func parseKind(b []byte) (kind string, vlan int) {
	for k, v := range Attributes(b) {
		switch k {
		case unix.IFLA_INFO_KIND:
			kind = Text(v)
		case unix.IFLA_INFO_DATA:
			for k, v := range Attributes(v) {
				if kind == "vlan" && k == vlanID && len(v) == 2 {
					vlan = int(binary.NativeEndian.Uint16(v))
				}
			}
		}
	}
	return kind, vlan
}

// linkSettings are the settings of a link that State shows, with their places
// in the arrays IFLA_INET_CONF (from 1, linux/ip.h) and IFLA_INET6_CONF (from 0,
// linux/ipv6.h): the link dump brings them along, a file each would not.
var linkSettings = []struct {
	family uint16
	array  uint16
	place  int
	key    string
}{
	{unix.AF_INET, unix.IFLA_INET_CONF, 0, "net.ipv4.conf.%s.forwarding"},
	{unix.AF_INET, unix.IFLA_INET_CONF, 7, "net.ipv4.conf.%s.rp_filter"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 3, "net.ipv6.conf.%s.accept_ra"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 26, "net.ipv6.conf.%s.disable_ipv6"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 27, "net.ipv6.conf.%s.accept_dad"},
}

func linkSysctls(name string, spec []byte) []netstate.Sysctl {
	var s []netstate.Sysctl
	hasIPv6 := false
	for family, attrs := range Attributes(spec) {
		hasIPv6 = hasIPv6 || family == unix.AF_INET6
		for array, v := range Attributes(attrs) {
			for _, set := range linkSettings {
				if set.family != family || set.array != array || len(v) < 4*set.place+4 {
					continue
				}
				value := int32(binary.NativeEndian.Uint32(v[4*set.place:]))
				key := fmt.Sprintf(set.key, strings.ReplaceAll(name, ".", "/"))
				s = append(s, netstate.Sysctl{Key: key, Value: fmt.Sprint(value)})
			}
		}
	}
	if !hasIPv6 {
		s = append(s, netstate.LinkSysctl("ipv6", name, "accept_ra", "0")) // as good as set
	}
	return s
}

// names finds the names of links by number.
type LinkNames map[int]string

func (n LinkNames) Of(index int) string {
	if name, ok := n[index]; ok {
		return name
	}
	return fmt.Sprintf("%s%d", UnnamedLink, index)
}

// UnnamedLink begins what stands for the name of a link that is not known.
const UnnamedLink = "if"

// ParseAddress reads an RTM_NEWADDR body.
func ParseAddress(b []byte, links LinkNames) (netstate.Address, error) {
	if len(b) < 8 {
		return netstate.Address{}, fmt.Errorf("address message of %d bytes", len(b))
	}
	a := netstate.Address{Link: links.Of(int(binary.NativeEndian.Uint32(b[4:])))}
	var local, remote netip.Addr
	flags := uint32(b[2])
	for kind, v := range Attributes(b[8:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local = ParseAddr(v)
		case unix.IFA_ADDRESS:
			remote = ParseAddr(v)
		case unix.IFA_FLAGS:
			flags = uint32(Number(v))
		}
	}
	if !local.IsValid() {
		local = remote
	}
	a.Prefix = netip.PrefixFrom(local, int(b[1]))
	a.NoPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	return a, nil
}

// ParseNeighbor reads an RTM_NEWNEIGH body; ok is false for an entry that is
// not permanent.
func ParseNeighbor(b []byte, links LinkNames) (n netstate.Neighbor, ok bool, err error) {
	if len(b) < 12 {
		return n, false, fmt.Errorf("neighbour message of %d bytes", len(b))
	}
	if binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0 {
		return n, false, nil
	}
	n.Link = links.Of(int(binary.NativeEndian.Uint32(b[4:])))
	for kind, v := range Attributes(b[12:]) {
		switch kind {
		case unix.NDA_DST:
			n.Addr = ParseAddr(v)
		case unix.NDA_LLADDR:
			n.MAC = net.HardwareAddr(v).String()
		}
	}
	return n, n.Addr.IsValid() && n.MAC != "", nil
}

// ParseRoute reads an RTM_NEWROUTE body; ok is false for the kernel's own
// entries: caches, broadcast, anycast and multicast, and all of table local.
func ParseRoute(b []byte, links LinkNames) (r netstate.Route, ok bool, err error) {
	if len(b) < 12 {
		return r, false, fmt.Errorf("route message of %d bytes", len(b))
	}
	r.Table, r.Protocol = int(b[4]), int(b[5])
	kind := b[7]
	r.Type, ok = routeTypes[kind]
	if !ok {
		r.Type = fmt.Sprint(kind)
	}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for kind, v := range Attributes(b[12:]) {
		switch kind {
		case unix.RTA_DST:
			dst = ParseAddr(v)
		case unix.RTA_TABLE:
			r.Table = Number(v)
		case unix.RTA_OIF:
			r.Link = links.Of(Number(v))
		case unix.RTA_GATEWAY:
			r.Via = ParseAddr(v)
		case unix.RTA_PREFSRC:
			r.Src = ParseAddr(v)
		case unix.RTA_PRIORITY:
			r.Metric = Number(v)
		case unix.RTA_MULTIPATH:
			r.Link, r.Via, r.Other = parseNextHops(v, links)
		case unix.RTA_METRICS:
			for k, v := range Attributes(v) {
				if k == unix.RTAX_MTU {
					r.MTU = Number(v)
				}
			}
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	if b[0] == unix.AF_INET6 && r.Metric == netstate.DefaultMetric6 {
		r.Metric = 0
	}
	if kind == unix.RTN_BLACKHOLE || kind == unix.RTN_UNREACHABLE || kind == unix.RTN_PROHIBIT || kind == unix.RTN_THROW {
		r.Link = "" // the kernel says lo for IPv6
	}
	own := kind == unix.RTN_BROADCAST || kind == unix.RTN_ANYCAST || kind == unix.RTN_MULTICAST || kind == unix.RTN_LOCAL
	cloned := binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0
	return r, !own && !cloned && r.Table != unix.RT_TABLE_LOCAL, nil
}

// parseNextHops reads the next hops of a route that has several: a row of struct
// rtnexthop with attributes. Link and gateway are those of all, if they agree.
func parseNextHops(b []byte, links LinkNames) (link string, via netip.Addr, text string) {
	const header = 8
	for first := true; len(b) >= header; first = false {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			break
		}
		l, gw := links.Of(int(binary.NativeEndian.Uint32(b[4:]))), netip.Addr{}
		for kind, v := range Attributes(b[header:size]) {
			if kind == unix.RTA_GATEWAY {
				gw = ParseAddr(v)
			}
		}
		hop := "nexthop"
		if gw.IsValid() {
			hop += " via " + gw.String()
		}
		text = strings.TrimPrefix(fmt.Sprintf("%s %s dev %s weight %d", text, hop, l, int(b[3])+1), " ")
		if first {
			link, via = l, gw
		}
		if link != l {
			link = ""
		}
		if via != gw {
			via = netip.Addr{}
		}
		b = b[min(align(size), len(b)):]
	}
	return link, via, text
}

// ParseRule reads an RTM_NEWRULE body.
func ParseRule(b []byte) (netstate.Rule, error) {
	if len(b) < 12 {
		return netstate.Rule{}, fmt.Errorf("rule message of %d bytes", len(b))
	}
	r := netstate.Rule{IPv6: b[0] == unix.AF_INET6, Table: int(b[4])}
	var other []string
	if b[3] != 0 {
		other = append(other, fmt.Sprintf("tos %#x", b[3]))
	}
	if binary.NativeEndian.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0 {
		other = append(other, "not")
	}
	if b[7] != unix.FR_ACT_TO_TBL {
		other = append(other, fmt.Sprintf("action %d", b[7]))
	}
	for kind, v := range Attributes(b[12:]) {
		switch kind {
		case unix.FRA_PRIORITY:
			r.Priority = Number(v)
		case unix.FRA_SRC:
			r.From = netip.PrefixFrom(ParseAddr(v), int(b[2]))
		case unix.FRA_DST:
			r.To = netip.PrefixFrom(ParseAddr(v), int(b[1]))
		case unix.FRA_FWMARK:
			r.Mark = uint32(Number(v))
		case unix.FRA_FWMASK:
			r.Mask = uint32(Number(v))
		case unix.FRA_IIFNAME:
			r.IIF = Text(v)
		case unix.FRA_IP_PROTO:
			r.IPProto = Number(v)
		case unix.FRA_TABLE:
			r.Table = Number(v)
		case unix.FRA_PROTOCOL:
			r.Protocol = Number(v)
		default:
			other = append(other, otherSelector(kind, v)...)
		}
	}
	r.Other = strings.Join(other, " ")
	return r, nil
}

// otherSelector names what a rule may also select by, which our rules never do.
func otherSelector(kind uint16, v []byte) []string {
	switch kind {
	case unix.FRA_OIFNAME:
		return []string{"oif " + Text(v)}
	case unix.FRA_GOTO:
		return []string{fmt.Sprintf("goto %d", Number(v))}
	case unix.FRA_SPORT_RANGE:
		return []string{"sport " + portRange(v)}
	case unix.FRA_DPORT_RANGE:
		return []string{"dport " + portRange(v)}
	case unix.FRA_SUPPRESS_PREFIXLEN:
		if n := int32(Number(v)); n >= 0 {
			return []string{fmt.Sprintf("suppress_prefixlength %d", n)}
		}
	case unix.FRA_UID_RANGE, unix.FRA_TUN_ID, unix.FRA_L3MDEV:
		if Number(v) != 0 || len(v) > 4 {
			return []string{fmt.Sprintf("selector %d", kind)}
		}
	}
	return nil
}

// portRange reads struct fib_rule_port_range.
func portRange(b []byte) string {
	if len(b) < 4 {
		return "?"
	}
	return fmt.Sprintf("%d-%d", binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:]))
}
