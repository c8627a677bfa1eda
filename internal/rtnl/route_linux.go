// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Route is a route with what the kernel reports about it beyond package netstate.
type Route struct {
	netstate.Route
	// LinkIndex is the number of the route's link, 0 if it has none or several.
	LinkIndex int
	// Internal means that the kernel made the route for itself: a cache, broadcast,
	// anycast or multicast entry, or any entry of table local. A State shows none of
	// them.
	Internal bool
}

// routeTypes are the kernel's route types that a State can show.
var routeTypes = map[uint8]string{
	unix.RTN_UNICAST: "", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
	unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func routeTypeNumber(name string) uint8 {
	if name == "" {
		return unix.RTN_UNICAST
	}
	for n, s := range routeTypes {
		if s == name {
			return n
		}
	}
	return unix.RTN_UNICAST
}

// AddRoute asks to add a route over the link of a number; 0 is no link. The kernel
// answers EEXIST if the table has another route to the same destination.
func (b *Batch) AddRoute(index int, r netstate.Route) {
	b.newRoute(create, index, r)
}

// ReplaceRoute asks to add a route over the link of a number; 0 is no link. It
// replaces a route of the table to the same destination.
func (b *Batch) ReplaceRoute(index int, r netstate.Route) {
	b.newRoute(replace, index, r)
}

func (b *Batch) newRoute(flags, index int, r netstate.Route) {
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if r.Dst.Addr().Is4() && !r.Via.IsValid() && r.Type == "" {
		scope = unix.RT_SCOPE_LINK
	}
	b.route(unix.RTM_NEWROUTE, flags, scope, index, r)
	if r.MTU != 0 {
		metrics := b.open(unix.RTA_METRICS)
		b.attr32(unix.RTAX_MTU, uint32(r.MTU))
		b.close(metrics)
	}
}

// DeleteRoute asks to delete a route over the link of a number. With index 0 the
// kernel does not compare the link.
func (b *Batch) DeleteRoute(index int, r netstate.Route) {
	b.route(unix.RTM_DELROUTE, 0, unix.RT_SCOPE_NOWHERE, index, r)
}

// route appends a request for r. The table is in an attribute, because the header has
// room for 255 of them only.
func (b *Batch) route(kind, flags int, scope uint8, index int, r netstate.Route) {
	header := nl.RtMsg{RtMsg: unix.RtMsg{
		Family: familyOf(r.Dst.Addr()), Dst_len: uint8(r.Dst.Bits()),
		Protocol: uint8(r.Protocol), Scope: scope, Type: routeTypeNumber(r.Type),
	}}
	b.add(kind, flags, header.Serialize())
	b.attrAddr(unix.RTA_DST, r.Dst.Addr())
	b.attr32(unix.RTA_TABLE, uint32(r.Table))
	if index != 0 {
		b.attr32(unix.RTA_OIF, uint32(index))
	}
	if r.Via.IsValid() {
		b.attrAddr(unix.RTA_GATEWAY, r.Via)
	}
	if r.Src.IsValid() {
		b.attrAddr(unix.RTA_PREFSRC, r.Src)
	}
	if r.Metric != 0 {
		b.attr32(unix.RTA_PRIORITY, uint32(r.Metric))
	}
}

// decodeRoute decodes a route. Package netlink decodes routes only within its own
// calls.
func decodeRoute(body []byte, links LinkNames) (r Route, err error) {
	if len(body) < unix.SizeofRtMsg {
		return r, fmt.Errorf("route message has %d bytes, want at least %d", len(body), unix.SizeofRtMsg)
	}
	header := nl.DeserializeRtMsg(body)
	r.Table, r.Protocol = int(header.Table), int(header.Protocol)
	var known bool
	if r.Type, known = routeTypes[header.Type]; !known {
		r.Type = fmt.Sprint(header.Type)
	}
	dst := netip.IPv4Unspecified()
	if header.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for kind, v := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst = addr(v)
		case unix.RTA_TABLE:
			r.Table = number(v)
		case unix.RTA_OIF:
			r.LinkIndex = number(v)
			r.Link = links.Name(r.LinkIndex)
		case unix.RTA_GATEWAY:
			r.Via = addr(v)
		case unix.RTA_PREFSRC:
			r.Src = addr(v)
		case unix.RTA_PRIORITY:
			r.Metric = number(v)
		case unix.RTA_MULTIPATH:
			r.Link, r.Via, r.Other = decodeNextHops(v, links)
		case unix.RTA_METRICS:
			r.MTU = decodeMTU(v)
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(header.Dst_len))
	if header.Family == unix.AF_INET6 && r.Metric == netstate.DefaultMetric6 {
		r.Metric = 0
	}
	switch header.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		r.Link = "" // the kernel reports link lo for IPv6
	case unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST, unix.RTN_LOCAL:
		r.Internal = true
	}
	r.Internal = r.Internal || header.Flags&unix.RTM_F_CLONED != 0 || r.Table == unix.RT_TABLE_LOCAL
	return r, nil
}

// decodeMTU decodes RTA_METRICS.
func decodeMTU(b []byte) (mtu int) {
	for kind, v := range attributes(b) {
		if kind == unix.RTAX_MTU {
			mtu = number(v)
		}
	}
	return mtu
}

// decodeNextHops decodes the next hops of a route that has several: structs rtnexthop,
// each with attributes. It returns the link and the gateway that all have in common.
func decodeNextHops(b []byte, links LinkNames) (link string, via netip.Addr, text string) {
	for first := true; len(b) >= unix.SizeofRtNexthop; first = false {
		header := nl.DeserializeRtNexthop(b)
		size := int(header.RtNexthop.Len)
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		l, gateway := links.Name(int(header.Ifindex)), netip.Addr{}
		for kind, v := range attributes(b[unix.SizeofRtNexthop:size]) {
			if kind == unix.RTA_GATEWAY {
				gateway = addr(v)
			}
		}
		hop := "nexthop"
		if gateway.IsValid() {
			hop += " via " + gateway.String()
		}
		text = strings.TrimPrefix(fmt.Sprintf("%s %s dev %s weight %d", text, hop, l, int(header.Hops)+1), " ")
		if first {
			link, via = l, gateway
		}
		if link != l {
			link = ""
		}
		if via != gateway {
			via = netip.Addr{}
		}
		b = b[min(align(size), len(b)):]
	}
	return link, via, text
}

// listRoutes returns the routes of a family that a filter selects, an attribute and its
// value, and that f accepts. Filter 0 selects all. A kernel without the family lists the
// routes of all others instead.
func (c *Conn) listRoutes(f netstate.Family, links LinkNames, accept func(Route) bool, filter, value int) ([]Route, error) {
	var b Batch
	header := nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(f)}}
	b.add(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header.Serialize())
	if filter != 0 {
		b.attr32(filter, uint32(value))
	}
	routes, err := list(c, &b, func(body []byte) (Route, bool, error) {
		r, err := decodeRoute(body, links)
		return r, err == nil && netstate.FamilyOf(r.Dst.Addr()) == f && accept(r), err
	})
	return routes, ofFamily(err)
}

// EachRoute calls each for every route of a family that a State shows.
func (c *Conn) EachRoute(f netstate.Family, links LinkNames, each func(netstate.Route)) error {
	routes, err := c.listRoutes(f, links, Route.shown, 0, 0)
	if err != nil {
		return err
	}
	for _, r := range routes {
		each(r.Route)
	}
	return nil
}

// shown reports whether a State shows the route.
func (r Route) shown() bool { return !r.Internal && !LinkScoped(r.Route) }

// EachRouteOver calls each for every route of a family that leads to the link of a
// number. The routes do not have the link's name.
func (c *Conn) EachRouteOver(index int, f netstate.Family, each func(netstate.Route)) error {
	over := func(r Route) bool { return !r.Internal && r.Link == onlyLink }
	routes, err := c.listRoutes(f, LinkNames{index: onlyLink}, over, unix.RTA_OIF, index)
	if err != nil {
		return err
	}
	for _, r := range routes {
		r.Link = ""
		each(r.Route)
	}
	return nil
}

// EachRouteIn calls each for every route of a family in a table, the kernel's own ones
// too. Kernels that do not filter by table list the routes of other tables as well.
func (c *Conn) EachRouteIn(f netstate.Family, table int, each func(Route)) error {
	routes, err := c.listRoutes(f, nil, func(Route) bool { return true }, unix.RTA_TABLE, table)
	if err != nil {
		return err
	}
	for _, r := range routes {
		each(r)
	}
	return nil
}

// LinkScoped reports whether r is one of the routes that the kernel makes for every
// IPv6 link.
func LinkScoped(r netstate.Route) bool {
	a := r.Dst.Addr()
	return r.Protocol == unix.RTPROT_KERNEL && a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}
