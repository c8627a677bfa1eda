// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"slices"

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
	if err == nil {
		err = o.observeUses(c)
	}
	if err != nil {
		return o, err
	}
	for f := range netstate.Families() {
		if err := c.EachRule(f, func(r netstate.Rule) { o.Rules = append(o.Rules, r) }); err != nil {
			return o, err
		}
	}
	return o, nil
}

// ObserveUses reads what shows which addresses are in use: links without their settings,
// addresses, neighbours and routes. It costs half of Observe.
func (c *Conn) ObserveUses() (o Observation, err error) {
	if o.Indexed, err = c.listLinks(); err != nil {
		return o, err
	}
	o.nameLinks()
	return o, o.observeUses(c)
}

func (o *Observation) observeUses(c *Conn) error {
	links := make(LinkNames, len(o.Indexed))
	for _, l := range o.Indexed {
		links[l.Index] = l.Name
	}
	if err := o.observeAddresses(c, links); err != nil {
		return err
	}
	if err := o.observeNeighbors(c, links); err != nil {
		return err
	}
	for f := range netstate.Families() {
		routes, err := c.listRoutes(f, links, Route.shown, 0, 0)
		if err != nil {
			return err
		}
		o.Routes = slices.Grow(o.Routes, len(routes))
		for _, r := range routes {
			o.Routes = append(o.Routes, r.Route)
		}
	}
	return nil
}

func (o *Observation) observeAddresses(c *Conn, links LinkNames) (err error) {
	var b Batch
	b.add(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC).Serialize())
	o.Addresses, err = list(c, &b, func(body []byte) (netstate.Address, bool, error) {
		a, err := decodeAddress(body, links)
		return a, !(a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast()), err
	})
	return err
}

func (o *Observation) observeNeighbors(c *Conn, links LinkNames) (err error) {
	var b Batch
	b.add(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, neighborHeader(unix.AF_UNSPEC, 0, 0))
	o.Neighbors, err = list(c, &b, func(body []byte) (netstate.Neighbor, bool, error) {
		n, err := decodeNeighbor(body, links)
		return n.Neighbor, n.Permanent, err
	})
	return err
}

// ObserveLinks reads the links and their settings.
func (c *Conn) ObserveLinks() (o Observation, err error) {
	var b Batch
	b.addLink(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0)
	b.skipStats()
	o.Indexed, err = list(c, &b, func(body []byte) (Link, bool, error) {
		l, err := decodeLink(body)
		return l, true, err
	})
	settings := 0
	for _, l := range o.Indexed {
		settings += len(l.Sysctls)
	}
	o.Sysctls = make([]netstate.Sysctl, 0, settings)
	for _, l := range o.Indexed {
		o.Sysctls = append(o.Sysctls, l.Sysctls...)
	}
	o.nameLinks()
	return o, err
}

// nameLinks fills in the names that links have for each other, and Links.
func (o *Observation) nameLinks() {
	links := make(LinkNames, len(o.Indexed))
	for _, l := range o.Indexed {
		links[l.Index] = l.Name
	}
	o.Links = make([]netstate.Link, len(o.Indexed))
	for i := range o.Indexed {
		l := &o.Indexed[i]
		if l.ParentIndex != 0 {
			l.Parent = links.Name(l.ParentIndex)
		}
		if l.MasterIndex != 0 {
			l.Master = links.Name(l.MasterIndex)
		}
		o.Links[i] = l.Link
	}
}
