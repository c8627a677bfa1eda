// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// A VPC route table is a route table of the router, which one rule for each ENI of its
// subnets looks up before the main table. The main table has the routes to the ENIs that
// own addresses; a local route is a throw route, which continues there. Everything that
// the table has no route for is dropped.
const (
	firstTable   = 1000
	rulePriority = 1000
)

// routeKey identifies a route of the router.
type routeKey struct {
	table  int
	prefix netip.Prefix
}

// routeHop is where a route leads: over a link, or nowhere if the index is 0.
type routeHop struct {
	index int
	kind  int // a type of the kernel, RTN_...
}

// wantedRoutes returns the routes of the VPC route tables, the routes that drop packets
// for unowned addresses of the further blocks, and the table of each link that has one.
func (r *routing) wantedRoutes(w wanted, further []netip.Prefix) (map[routeKey]routeHop, map[string]int) {
	routes, lookups := map[routeKey]routeHop{}, map[string]int{}
	for _, b := range further {
		routes[routeKey{unix.RT_TABLE_MAIN, b}] = routeHop{kind: unix.RTN_BLACKHOLE}
	}
	for _, p := range w.ports {
		t, ok := w.network.Table(p.Subnet)
		if !ok {
			continue
		}
		number, ok := r.tables[t.ID]
		if !ok {
			number = firstTable + len(r.tables)
			r.tables[t.ID] = number
		}
		lookups[p.link] = number
		r.addTable(routes, number, t, w)
	}
	return routes, lookups
}

func (r *routing) addTable(routes map[routeKey]routeHop, number int, t vpcrules.RouteTable, w wanted) {
	for _, v := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		routes[routeKey{number, netip.PrefixFrom(v, 0)}] = routeHop{kind: unix.RTN_BLACKHOLE}
	}
	for _, b := range w.network.Blocks {
		routes[routeKey{number, b}] = routeHop{kind: unix.RTN_THROW}
	}
	for _, route := range t.Routes {
		hop := routeHop{kind: unix.RTN_BLACKHOLE}
		switch target := route.Target; target.Kind {
		case vpcrules.Local:
			if route.Delivers(w.network.Blocks) {
				hop.kind = unix.RTN_THROW
			}
		case vpcrules.ToENI:
			if p := w.ports[target.ENI]; p != nil {
				hop = routeHop{index: p.index, kind: unix.RTN_UNICAST}
			}
		case vpcrules.Internet, vpcrules.Peer:
			hop = routeHop{index: r.outside[target.Kind], kind: unix.RTN_UNICAST}
		}
		routes[routeKey{number, route.Destination.Masked()}] = hop
	}
}

func (k routeKey) route(hop routeHop) *netlink.Route {
	route := &netlink.Route{Dst: ipNet(k.prefix)}
	if hop.kind == unix.RTN_UNICAST {
		route = via(k.prefix, hop.index, nextHop4, nextHop6)
	}
	route.Table, route.Type = k.table, hop.kind
	return route
}

// setRoutes changes the routes and the rules of the router to those wanted. A packet
// that is forwarded meanwhile finds either the old or the new route.
func (r *routing) setRoutes(routes map[routeKey]routeHop, lookups map[string]int) error {
	var errs error
	for k, hop := range routes {
		if have, ok := r.routes[k]; ok && have == hop {
			continue
		}
		if err := r.h.RouteReplace(k.route(hop)); err != nil {
			errs = errors.Join(errs, fmt.Errorf("route %v in table %d: %w", k.prefix, k.table, err))
			continue
		}
		r.routes[k] = hop
	}
	for name, number := range lookups {
		if have := r.lookups[name]; have != number {
			errs = errors.Join(errs, r.lookup(name, number, r.h.RuleAdd))
			if have != 0 {
				errs = errors.Join(errs, r.lookup(name, have, r.h.RuleDel))
			}
			r.lookups[name] = number
		}
	}
	for name, number := range r.lookups {
		if lookups[name] == 0 {
			errs = errors.Join(errs, r.lookup(name, number, r.h.RuleDel))
			delete(r.lookups, name)
		}
	}
	for k, hop := range r.routes {
		if _, ok := routes[k]; ok {
			continue
		}
		// The kernel has removed the routes over links that it has removed.
		if err := r.h.RouteDel(k.route(hop)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = errors.Join(errs, fmt.Errorf("remove route %v in table %d: %w", k.prefix, k.table, err))
		}
		delete(r.routes, k)
	}
	return errs
}

// lookup adds or removes the rules by which packets from a link look up a table.
func (r *routing) lookup(name string, table int, change func(*netlink.Rule) error) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Table, rule.Priority = family, name, table, rulePriority
		if err := change(rule); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("rule for table %d and packets from %s: %w", table, name, err)
		}
	}
	return nil
}
