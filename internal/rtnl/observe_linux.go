// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Observation is a State, and its links with their numbers.
type Observation struct {
	netstate.State
	Indexed []Link
}

// Observe reads everything that a route netlink socket reports.
func (c *Conn) Observe() (Observation, error) {
	o, err := c.ObserveLinks()
	if err != nil {
		return o, err
	}
	links := LinkNames{}
	for _, l := range o.Indexed {
		links[l.Index] = l.Name
	}
	if err := o.observeAddresses(c, links); err != nil {
		return o, err
	}
	if err := o.observeNeighbors(c, links); err != nil {
		return o, err
	}
	for f := range netstate.Families() {
		if err := c.EachRoute(f, links, func(r netstate.Route) { o.Routes = append(o.Routes, r) }); err != nil {
			return o, err
		}
		if err := c.EachRule(f, func(r netstate.Rule) { o.Rules = append(o.Rules, r) }); err != nil {
			return o, err
		}
	}
	return o, nil
}

func (o *Observation) observeAddresses(c *Conn, links LinkNames) error {
	var b Batch
	b.add(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC).Serialize())
	return c.dump(&b, func(body []byte) error {
		a, err := decodeAddress(body, links)
		if err == nil && !(a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast()) {
			o.Addresses = append(o.Addresses, a)
		}
		return err
	})
}

func (o *Observation) observeNeighbors(c *Conn, links LinkNames) error {
	var b Batch
	b.add(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, neighborHeader(unix.AF_UNSPEC, 0, 0))
	return c.dump(&b, func(body []byte) error {
		n, err := decodeNeighbor(body, links)
		if err == nil && n.Permanent {
			o.Neighbors = append(o.Neighbors, n.Neighbor)
		}
		return err
	})
}

// ObserveLinks reads the links and their settings.
func (c *Conn) ObserveLinks() (Observation, error) {
	var o Observation
	links := LinkNames{}
	var b Batch
	b.addLink(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0)
	err := c.dump(&b, func(body []byte) error {
		l, err := decodeLink(body)
		o.Indexed = append(o.Indexed, l)
		o.Sysctls = append(o.Sysctls, l.Sysctls...)
		links[l.Index] = l.Name
		return err
	})
	for i, l := range o.Indexed {
		if l.ParentIndex != 0 {
			o.Indexed[i].Parent = links.Name(l.ParentIndex)
		}
		if l.MasterIndex != 0 {
			o.Indexed[i].Master = links.Name(l.MasterIndex)
		}
		o.Links = append(o.Links, o.Indexed[i].Link)
	}
	return o, err
}
