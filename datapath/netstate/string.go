// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"fmt"
	"net/netip"
	"strings"
)

// family returns the option that selects the family of a in ip(8).
func family(a netip.Addr) string {
	if a.Is4() {
		return "-4"
	}
	return "-6"
}

// String returns the arguments of `ip link add` for a veth pair and for a virtual link
// that is down, and of `ip link set` for every other link.
func (l Link) String() string {
	var b strings.Builder
	switch {
	case l.Kind == "veth" && l.Peer != "":
		fmt.Fprintf(&b, "link add %s", l.Name)
	case l.Virtual() && !l.Up:
		return l.addition()
	default:
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
	if l.Master != "" {
		fmt.Fprintf(&b, " master %s", l.Master)
	}
	if l.NoARP {
		b.WriteString(" arp off")
	}
	if l.Alias != "" {
		fmt.Fprintf(&b, " alias '%s'", strings.ReplaceAll(l.Alias, "'", `'\''`))
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
	single := r.Other == ""
	if r.Via.IsValid() && single {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Link != "" && single {
		fmt.Fprintf(&b, " dev %s", r.Link)
	}
	if r.Table != TableMain {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	fmt.Fprintf(&b, " proto %s", routeProtocolName(r.Protocol))
	if !r.Via.IsValid() && r.Dst.Addr().Is4() && r.Type == "" && single {
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
	if !single {
		b.WriteString(" " + r.Other)
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
	if r.IPProto != 0 {
		b.WriteString(" ipproto " + ipProtoName(r.IPProto))
	}
	if r.Other != "" {
		b.WriteString(" " + r.Other)
	}
	if r.Table != 0 {
		fmt.Fprintf(&b, " lookup %s", TableName(r.Table))
	}
	fmt.Fprintf(&b, " protocol %s", routeProtocolName(r.Protocol))
	return b.String()
}

func (s Sysctl) String() string { return s.Key + "=" + s.Value }

func (s Source) String() string { return fmt.Sprintf("%s : jump %s", plain(s.Prefix), s.Chain) }

// plain prints a prefix as ip and nft do: without the length if it is a single address.
func plain(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// TableName returns the name of a route table if the kernel defines it, and otherwise the
// number.
func TableName(t int) string {
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

// routeProtocolName returns the name of a route protocol if every version of iproute2
// knows it, and otherwise the number.
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

// Virtual reports whether a link of this kind can be created from l alone, without a
// sandbox or a device.
func (l Link) Virtual() bool { return l.Kind == "vlan" || l.Kind == "bridge" }

// addition returns the arguments of `ip link add` for a virtual link.
func (l Link) addition() string {
	var b strings.Builder
	b.WriteString("link add")
	if l.Parent != "" {
		fmt.Fprintf(&b, " link %s", l.Parent)
	}
	fmt.Fprintf(&b, " name %s address %s", l.Name, l.MAC)
	if l.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", l.MTU)
	}
	fmt.Fprintf(&b, " type %s", l.Kind)
	if l.VLAN != 0 {
		fmt.Fprintf(&b, " id %d", l.VLAN)
	}
	return b.String()
}

// LinkSysctl returns the setting net.FAMILY.conf.LINK.KEY; family is "ipv4" or "ipv6".
func LinkSysctl(family, link, key, value string) Sysctl {
	return Sysctl{"net." + family + ".conf." + strings.ReplaceAll(link, ".", "/") + "." + key, value}
}
