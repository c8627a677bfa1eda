// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"net/netip"
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
	// Parent is the link below a VLAN, and VLAN its ID.
	Parent string `json:",omitempty"`
	VLAN   int    `json:",omitempty"`
	// Master is the bridge that the link is a port of.
	Master string `json:",omitempty"`
	// Alias of a VLAN link of ours tells DelPod whose it is.
	Alias string `json:",omitempty"`
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
	// Other holds what this package never makes but can show: several next hops.
	// Via and Link are set if they have them in common.
	Other string `json:",omitempty"`
}

// Rule is a routing rule. From and To without address match everything.
type Rule struct {
	Priority   int
	IPv6       bool
	From, To   netip.Prefix
	Mark, Mask uint32
	IIF        string
	// IPProto is the number of a transport protocol; 0 is any.
	IPProto  int `json:",omitempty"`
	Table    int
	Protocol int
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

// SourceMaps are the maps of our table.
var SourceMaps = []struct {
	Name, key string
	ipv4      bool
}{{"source4", "ipv4_addr", true}, {"source6", "ipv6_addr", false}}

func (f Filter) Empty() bool { return len(f.Chains) == 0 }

// String returns the script described at [State].
func (s State) String() string {
	s = s.Canonical()
	var b strings.Builder
	for _, c := range s.Additions() {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
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
