// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Observation is a State and the numbers of its links.
type Observation struct {
	netstate.State
	Indexed []Link
}

// EachLink calls f for each link, without its settings.
func EachLink(c *Conn, f func(Link)) error {
	var b Batch
	b.Add(unix.RTM_GETLINK, unix.NLM_F_DUMP, LinkHeader(0, 0, 0), func() { b.Attr32(unix.IFLA_EXT_MASK, filterSkipStats) })
	return c.Dump(&b, func(body []byte) error {
		l, err := ParseLinkOnly(body)
		if err == nil {
			f(l)
		}
		return err
	})
}

// ObserveRoutes reads everything that a route netlink socket tells.
func ObserveRoutes(c *Conn) (Observation, error) {
	o, err := DumpLinks(c)
	if err != nil {
		return o, err
	}
	links := LinkNames{}
	for _, l := range o.Indexed {
		links[l.Index] = l.Name
	}
	err = c.DumpAll(unix.RTM_GETADDR, make([]byte, 8), func(b []byte) error {
		a, err := ParseAddress(b, links)
		if !a.Prefix.Addr().Is6() || !a.Prefix.Addr().IsLinkLocalUnicast() {
			o.Addresses = append(o.Addresses, a)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	err = c.DumpAll(unix.RTM_GETNEIGH, make([]byte, 12), func(b []byte) error {
		n, ok, err := ParseNeighbor(b, links)
		if ok {
			o.Neighbors = append(o.Neighbors, n)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := ObserveFamily(c, family, &o.State, links); err != nil {
			return o, err
		}
	}
	return o, nil
}

// DumpLinks reads the links and their settings.
func DumpLinks(c *Conn) (Observation, error) {
	var o Observation
	links := LinkNames{}
	err := c.DumpAll(unix.RTM_GETLINK, LinkHeader(0, 0, 0), func(b []byte) error {
		l, err := ParseLink(b)
		o.Indexed = append(o.Indexed, l)
		o.Sysctls = append(o.Sysctls, l.Sysctls...)
		links[l.Index] = l.Name
		return err
	})
	for i, l := range o.Indexed {
		if l.ParentIndex != 0 {
			o.Indexed[i].Parent = links.Of(l.ParentIndex)
		}
		if l.MasterIndex != 0 {
			o.Indexed[i].Master = links.Of(l.MasterIndex)
		}
		o.Links = append(o.Links, o.Indexed[i].Link)
	}
	return o, err
}

// ObserveFamily reads routes and rules of one family. The header of either
// begins with the family.
func ObserveFamily(c *Conn, family byte, s *netstate.State, links LinkNames) error {
	header := make([]byte, 12)
	header[0] = family
	err := c.DumpAll(unix.RTM_GETROUTE, header, func(b []byte) error {
		r, ok, err := ParseRoute(b, links)
		if ok && !LinkScoped(r) {
			s.Routes = append(s.Routes, r)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.DumpAll(unix.RTM_GETRULE, header, func(b []byte) error {
		r, err := ParseRule(b)
		s.Rules = append(s.Rules, r)
		return err
	})
}

// LinkScoped reports whether r is one of the routes that the kernel makes for
// every IPv6 link.
func LinkScoped(r netstate.Route) bool {
	a := r.Dst.Addr()
	return r.Protocol == unix.RTPROT_KERNEL && a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}

func (c *Conn) DumpAll(kind uint16, header []byte, each func([]byte) error) error {
	var b Batch
	b.Add(kind, unix.NLM_F_DUMP, header, nil)
	return c.Dump(&b, each)
}

// EachNeighbor calls f for each permanent neighbour entry of a link.
func (c *Conn) EachNeighbor(index int, f func(netstate.Neighbor)) error {
	var b Batch
	b.Add(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, make([]byte, 12), func() { b.Attr32(unix.NDA_IFINDEX, uint32(index)) })
	return c.Dump(&b, func(body []byte) error {
		n, permanent, err := ParseNeighbor(body, LinkNames{index: thisLink})
		if permanent && n.Link == thisLink {
			f(n)
		}
		return err
	})
}

// thisLink stands for the name of the link that is asked for by number.
const thisLink = "this"

// NeighborOf returns the permanent entry that a link has for an address.
func (c *Conn) NeighborOf(index int, a netip.Addr) (n netstate.Neighbor, found bool, err error) {
	var b Batch
	header := make([]byte, 12)
	header[0] = FamilyOf(a)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	b.Add(unix.RTM_GETNEIGH, Ack, header, func() { b.Attr(unix.NDA_DST, a.AsSlice()) })
	answers, err := c.Do(&b)
	if err != nil || answers[0].Err != nil {
		return n, false, err
	}
	return ParseNeighbor(answers[0].Data, LinkNames{})
}

// EachRouteOver calls f for each route of a family that leads to a link.
func (c *Conn) EachRouteOver(index int, family byte, f func(netstate.Route)) error {
	var b Batch
	header := make([]byte, 12)
	header[0] = family
	b.Add(unix.RTM_GETROUTE, unix.NLM_F_DUMP, header, func() { b.Attr32(unix.RTA_OIF, uint32(index)) })
	return c.Dump(&b, func(body []byte) error {
		r, ok, err := ParseRoute(body, LinkNames{index: thisLink})
		if ok && r.Link == thisLink {
			f(r)
		}
		return err
	})
}
