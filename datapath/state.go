// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// State is the network of one namespace, or the part of it that someone is
// responsible for. Its text is a shell script of ip, sysctl and nft commands in
// canonical order that would make it: equal states have equal texts.
type State struct {
	Links     []Link
	Addresses []Address
	Neighbors []Neighbor
	Routes    []Route
	Rules     []Rule
	Sysctls   []Sysctl
	Filter    Filter
}

// Link is a network interface.
type Link struct {
	Name string
	// Kind is the kernel's name of the link's kind, as "veth", and empty for
	// hardware.
	Kind string
	// MAC in lower case with colons.
	MAC string
	// MTU 0 in a wanted state leaves it as it is.
	MTU int
	Up  bool
	// Peer is the name of the other end of a veth pair in a wanted state.
	Peer string
	// Group is the link group.
	Group int
}

// Address is an address on a link.
type Address struct {
	Link   string
	Prefix netip.Prefix
	// NoPrefixRoute keeps the kernel from making a route to the prefix.
	NoPrefixRoute bool
}

// Neighbor is a permanent neighbour entry.
type Neighbor struct {
	Link string
	Addr netip.Addr
	MAC  string
}

// Route is a route in any table but the kernel's own, local.
type Route struct {
	Dst   netip.Prefix
	Via   netip.Addr // the gateway, if any
	Link  string
	Table int
	Src   netip.Addr // the preferred source, if any
	// Metric of an IPv6 route is 0 for the kernel's default, 1024.
	Metric int
	// MTU bounds packets by this route; 0 is the link's.
	MTU      int
	Protocol int
	// Type is empty for unicast, else as in ip: "unreachable", "blackhole", ...
	Type string
}

// Rule is a routing rule. From and To without address match everything.
type Rule struct {
	Priority   int
	IPv6       bool
	From, To   netip.Prefix
	Mark, Mask uint32
	IIF        string
	Table      int
	Protocol   int
	// Other holds what this package never makes but can show, as "not" or
	// "goto 100".
	Other string
}

// Sysctl is a kernel setting, with the key in dots as in sysctl(8). A link's
// name in a key has its dots as slashes.
type Sysctl struct{ Key, Value string }

// Filter is our nftables table. The zero value is no table.
type Filter struct {
	Chains []Chain
	// Sources are the elements of the maps source4 and source6.
	Sources []Source
}

// Chain is a chain of our table.
type Chain struct {
	Name string
	// Hook and Priority are set for a base chain.
	Hook     string
	Priority int
	Rules    []string
}

// Source sends packets from a prefix to a chain.
type Source struct {
	Prefix netip.Prefix
	Chain  string
}

func (l Link) key() string     { return l.Name }
func (a Address) key() string  { return a.Link + " " + a.Prefix.String() }
func (n Neighbor) key() string { return n.Link + " " + n.Addr.String() }
func (r Route) key() string {
	return fmt.Sprintf("%d %s %d %s", r.Table, r.Dst, r.Metric, family(r.Dst.Addr()))
}
func (r Rule) key() string   { return r.String() }
func (s Sysctl) key() string { return s.Key }
func (s Source) key() string { return s.Prefix.String() }
func family(a netip.Addr) string {
	if a.Is4() {
		return "-4"
	}
	return "-6"
}

// String returns the arguments of `ip link add` for a veth pair and of `ip link
// set` for another link.
func (l Link) String() string {
	var b strings.Builder
	if l.Kind == "veth" && l.Peer != "" {
		fmt.Fprintf(&b, "link add %s", l.Name)
	} else {
		fmt.Fprintf(&b, "link set dev %s", l.Name)
	}
	if l.MAC != "" {
		fmt.Fprintf(&b, " address %s", l.MAC)
	}
	if l.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", l.MTU)
	}
	if l.Group != 0 {
		fmt.Fprintf(&b, " group %d", l.Group)
	}
	if l.Up {
		b.WriteString(" up")
	} else {
		b.WriteString(" down")
	}
	if l.Kind == "veth" && l.Peer != "" {
		fmt.Fprintf(&b, " type veth peer name %s", l.Peer)
	}
	return b.String()
}

func (a Address) String() string {
	s := fmt.Sprintf("%s dev %s", a.Prefix, a.Link)
	if a.NoPrefixRoute {
		s += " noprefixroute"
	}
	if a.Prefix.Addr().Is6() {
		s += " nodad"
	}
	return s
}

func (n Neighbor) String() string {
	return fmt.Sprintf("%s lladdr %s dev %s nud permanent", n.Addr, n.MAC, n.Link)
}

func (r Route) String() string {
	var b strings.Builder
	if r.Type != "" {
		b.WriteString(r.Type + " ")
	}
	if r.Dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(plain(r.Dst))
	}
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Link != "" {
		fmt.Fprintf(&b, " dev %s", r.Link)
	}
	if r.Table != TableMain {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	fmt.Fprintf(&b, " proto %s", routeProtocolName(r.Protocol))
	if !r.Via.IsValid() && r.Dst.Addr().Is4() && r.Type == "" {
		b.WriteString(" scope link")
	}
	if r.Src.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Src)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	return b.String()
}

func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pref %d", r.Priority)
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", plain(r.From))
	} else {
		b.WriteString(" from all")
	}
	if r.To.IsValid() {
		fmt.Fprintf(&b, " to %s", plain(r.To))
	}
	if r.Mark != 0 || r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.IIF != "" {
		fmt.Fprintf(&b, " iif %s", r.IIF)
	}
	if r.Other != "" {
		b.WriteString(" " + r.Other)
	}
	if r.Table != 0 {
		fmt.Fprintf(&b, " lookup %s", tableName(r.Table))
	}
	fmt.Fprintf(&b, " protocol %s", routeProtocolName(r.Protocol))
	return b.String()
}

func (s Sysctl) String() string { return s.Key + "=" + s.Value }

func (s Source) String() string { return fmt.Sprintf("%s : jump %s", plain(s.Prefix), s.Chain) }

// plain prints a prefix of full length without the length, as ip and nft do.
func plain(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func tableName(t int) string {
	switch t {
	case 253:
		return "default"
	case TableMain:
		return "main"
	case 255:
		return "local"
	}
	return fmt.Sprint(t)
}

// routeProtocolName returns the names that every iproute2 knows.
func routeProtocolName(p int) string {
	switch p {
	case 1:
		return "redirect"
	case 2:
		return "kernel"
	case 3:
		return "boot"
	case 4:
		return "static"
	case 9:
		return "ra"
	case 16:
		return "dhcp"
	}
	return fmt.Sprint(p)
}

// String returns the filter in the notation of `nft list table`.
func (f Filter) String() string {
	if f.empty() {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", FilterTable)
	for _, m := range sourceMaps {
		fmt.Fprintf(&b, "\tmap %s {\n\t\ttype %s : verdict\n\t\tflags interval\n", m.name, m.key)
		var elements []string
		for _, s := range f.Sources {
			if s.Prefix.Addr().Is4() == m.ipv4 {
				elements = append(elements, s.String())
			}
		}
		if len(elements) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(elements, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range f.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(&b, "\t\ttype filter hook %s priority %s; policy accept;\n", c.Hook, hookPriorityName(c.Priority))
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func hookPriorityName(p int) string {
	if p == priorityMangle {
		return "mangle"
	}
	return fmt.Sprint(p)
}

// sourceMaps are the maps of our table.
var sourceMaps = []struct {
	name, key string
	ipv4      bool
}{{"source4", "ipv4_addr", true}, {"source6", "ipv6_addr", false}}

func (f Filter) empty() bool { return len(f.Chains) == 0 }

// String returns the script described at [State].
func (s State) String() string {
	s = s.Canonical()
	var b strings.Builder
	for _, c := range s.additions() {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
}

// Canonical returns a copy of s in canonical order without duplicates.
func (s State) Canonical() State {
	s.Links = sorted(s.Links)
	s.Addresses = sorted(s.Addresses)
	s.Neighbors = sorted(s.Neighbors)
	s.Routes = sortedBy(s.Routes, func(r Route) string {
		// A gateway must be reachable before a route can name it.
		return fmt.Sprintf("%s %t %06d %s", family(r.Dst.Addr()), r.Via.IsValid(), r.Table, r)
	})
	s.Rules = sortedBy(s.Rules, func(r Rule) string { return fmt.Sprintf("%t %06d %s", r.IPv6, r.Priority, r) })
	s.Sysctls = sortedBy(s.Sysctls, func(x Sysctl) string {
		// Links first: when a node begins to forward, the kernel drops the default
		// routes of router advertisements but those of links with accept_ra=2.
		return fmt.Sprintf("%t %s", !strings.Contains(x.Key, ".conf.") || strings.Contains(x.Key, ".conf.all."), x)
	})
	s.Filter.Sources = sortedBy(s.Filter.Sources, func(s Source) string {
		b := s.Prefix.Addr().As16()
		return fmt.Sprintf("%t %x %d", s.Prefix.Addr().Is6(), b, s.Prefix.Bits())
	})
	return s
}

func sorted[T interface {
	comparable
	fmt.Stringer
}](items []T) []T {
	return sortedBy(items, T.String)
}

func sortedBy[T comparable](items []T, key func(T) string) []T {
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return slices.Compact(items)
}

// Join returns the union of states.
func Join(states ...State) State {
	var u State
	for _, s := range states {
		u.Links = append(u.Links, s.Links...)
		u.Addresses = append(u.Addresses, s.Addresses...)
		u.Neighbors = append(u.Neighbors, s.Neighbors...)
		u.Routes = append(u.Routes, s.Routes...)
		u.Rules = append(u.Rules, s.Rules...)
		u.Sysctls = append(u.Sysctls, s.Sysctls...)
		u.Filter.Chains = append(u.Filter.Chains, s.Filter.Chains...)
		u.Filter.Sources = append(u.Filter.Sources, s.Filter.Sources...)
	}
	return u.Canonical()
}
