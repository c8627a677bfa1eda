// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"maps"

	"golang.org/x/sys/unix"
)

// observation is a State and the numbers of its links.
type observation struct {
	State
	links []kernelLink
}

// Observe reads the whole network of the namespace, ours and others': links,
// addresses, permanent neighbours, routes, rules, the settings that matter here,
// and our nftables table. Table local is left out, as are IPv6 link-local
// addresses and routes to link-local and multicast prefixes, which the kernel
// makes for each link.
func (h *Handle) Observe(ctx context.Context) (State, error) {
	o, err := h.observe(ctx)
	return o.State, err
}

func (h *Handle) observe(ctx context.Context) (o observation, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		o, err = observeRoutes(c)
		return err
	})
	if err != nil {
		return o, err
	}
	sysctls, err := readSysctls(h.ns)
	if err != nil {
		return o, err
	}
	o.Sysctls = append(o.Sysctls, sysctls...)
	if o.Filter, err = h.observeFilter(ctx); err != nil {
		return o, err
	}
	o.State = o.Canonical()
	return o, nil
}

// observeSettled is observe with the names of those links that came, went, or were
// worked on by an AddPod or DelPod meanwhile: what belongs to their pods may be seen by
// halves.
func (h *Handle) observeSettled(ctx context.Context) (o observation, unsettled map[string]bool, err error) {
	if o, err = h.observe(ctx); err != nil {
		return o, nil, err
	}
	type identity struct{ index, group int }
	unsettled = map[string]bool{}
	before := map[string]identity{}
	for _, l := range o.links {
		before[l.Name] = identity{l.index, l.Group}
	}
	err = h.withConn(ctx, func(c *conn) error {
		return eachLink(c, func(l kernelLink) {
			unsettled[l.Name] = before[l.Name] != identity{l.index, l.Group}
			delete(before, l.Name)
		})
	})
	maps.DeleteFunc(unsettled, func(_ string, changed bool) bool { return !changed })
	for name := range before {
		unsettled[name] = true
	}
	return o, unsettled, err
}

// eachLink calls f for each link, without its settings.
func eachLink(c *conn, f func(kernelLink)) error {
	var b batch
	b.add(unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(0, 0, 0), func() { b.attr32(unix.IFLA_EXT_MASK, filterSkipStats) })
	return c.dump(&b, func(body []byte) error {
		l, err := parseLinkOnly(body)
		if err == nil {
			f(l)
		}
		return err
	})
}

// observeRoutes reads everything that a route netlink socket tells.
func observeRoutes(c *conn) (observation, error) {
	o, err := dumpLinks(c)
	if err != nil {
		return o, err
	}
	links := names{}
	for _, l := range o.links {
		links[l.index] = l.Name
	}
	err = c.dumpAll(unix.RTM_GETADDR, make([]byte, 8), func(b []byte) error {
		a, err := parseAddress(b, links)
		if !a.Prefix.Addr().Is6() || !a.Prefix.Addr().IsLinkLocalUnicast() {
			o.Addresses = append(o.Addresses, a)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	err = c.dumpAll(unix.RTM_GETNEIGH, make([]byte, 12), func(b []byte) error {
		n, ok, err := parseNeighbor(b, links)
		if ok {
			o.Neighbors = append(o.Neighbors, n)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := observeFamily(c, family, &o.State, links); err != nil {
			return o, err
		}
	}
	return o, nil
}

// dumpLinks reads the links and their settings.
func dumpLinks(c *conn) (observation, error) {
	var o observation
	links := names{}
	err := c.dumpAll(unix.RTM_GETLINK, linkHeader(0, 0, 0), func(b []byte) error {
		l, err := parseLink(b)
		o.links = append(o.links, l)
		o.Sysctls = append(o.Sysctls, l.sysctls...)
		links[l.index] = l.Name
		return err
	})
	for i, l := range o.links {
		if l.below != 0 {
			o.links[i].Parent = links.of(l.below)
		}
		if l.master != 0 {
			o.links[i].Master = links.of(l.master)
		}
		o.Links = append(o.Links, o.links[i].Link)
	}
	return o, err
}

// observeFamily reads routes and rules of one family. The header of either
// begins with the family.
func observeFamily(c *conn, family byte, s *State, links names) error {
	header := make([]byte, 12)
	header[0] = family
	err := c.dumpAll(unix.RTM_GETROUTE, header, func(b []byte) error {
		r, ok, err := parseRoute(b, links)
		if ok && !linkScoped(r) {
			s.Routes = append(s.Routes, r)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.dumpAll(unix.RTM_GETRULE, header, func(b []byte) error {
		r, err := parseRule(b)
		s.Rules = append(s.Rules, r)
		return err
	})
}

// linkScoped reports whether r is one of the routes that the kernel makes for
// every IPv6 link.
func linkScoped(r Route) bool {
	a := r.Dst.Addr()
	return r.Protocol == unix.RTPROT_KERNEL && a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}

func (c *conn) dumpAll(kind uint16, header []byte, each func([]byte) error) error {
	var b batch
	b.add(kind, unix.NLM_F_DUMP, header, nil)
	return c.dump(&b, each)
}
