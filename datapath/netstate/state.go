// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"net/netip"
	"slices"
	"strings"
)

// State is the network of one namespace, or a part of it. It prints itself as a
// shell script of ip, sysctl and nft commands that would create it. The commands
// stand in canonical order, so equal states print equal text. The zero value is
// an empty network.
type State struct {
	Links     []Link
	Addresses []Address
	Neighbors []Neighbor
	Routes    []Route
	Rules     []Rule
	Sysctls   []Sysctl
	Filter    Filter
	Flows     Flows `json:",omitzero"`
}

// Link is a network interface.
type Link struct {
	Name string
	// Kind is the kernel's name for the kind of link, such as "veth". It is empty
	// for hardware.
	Kind string
	// MAC is the hardware address in lower case with colons.
	MAC string
	// MTU is in bytes. In a wanted state, 0 leaves the link's MTU unchanged.
	MTU int
	Up  bool
	// Peer is the name of the other end of a veth pair. It is set in wanted states
	// only: the kernel does not report it across namespaces.
	Peer string
	// Group is the link group; 0 is the default group.
	Group int
	// NoARP means that the link neither sends nor receives ARP packets: it has only the
	// neighbour entries that programs make.
	NoARP bool `json:",omitempty"`
	// Parent is the link that carries a VLAN, and VLAN is its ID, 1 to 4094.
	Parent string `json:",omitempty"`
	VLAN   int    `json:",omitempty"`
	// Master is the bridge that the link is a port of.
	Master string `json:",omitempty"`
	// Alias is the description (IFLA_IFALIAS) of a VLAN or veth link. Package datapath
	// records there which pod the link belongs to.
	Alias string `json:",omitempty"`
}

// Address is an IP address on a link.
type Address struct {
	Link   string
	Prefix netip.Prefix
	// NoPrefixRoute keeps the kernel from adding a route to the prefix.
	NoPrefixRoute bool
}

// Neighbor is a permanent neighbour entry.
type Neighbor struct {
	Link string
	Addr netip.Addr
	MAC  string
}

// Route is a route in any table except the table local, which the kernel maintains.
type Route struct {
	Dst   netip.Prefix
	Via   netip.Addr // the gateway, if any
	Link  string
	Table int
	Src   netip.Addr // the preferred source, if any
	// Metric is the priority of the route; lower wins. In IPv6, 0 means the kernel's
	// default of 1024.
	Metric int
	// MTU limits packets that use this route, in bytes; 0 means the MTU of the link.
	MTU      int
	Protocol int
	// Type is empty for a unicast route, and otherwise the word of ip-route(8):
	// "unreachable", "blackhole", "throw", ...
	Type string
	// Other is the text of several next hops. Package datapath never creates such
	// routes. Via and Link are set if all next hops share them.
	Other string `json:",omitempty"`
}

// Rule is a routing policy rule. The zero From or To matches every address.
type Rule struct {
	Priority   int
	IPv6       bool
	From, To   netip.Prefix
	Mark, Mask uint32
	IIF        string
	// IPProto is the number of a transport protocol; 0 matches every protocol.
	IPProto  int `json:",omitempty"`
	Table    int
	Protocol int
	// Other is the text of selectors and actions that package datapath never
	// creates, such as "not" or "goto 100".
	Other string
}

// Sysctl is a kernel setting. Key is written with dots, as in sysctl(8); dots in
// the name of a link are written as slashes.
type Sysctl struct{ Key, Value string }

// String returns the script that [State] describes.
func (s State) String() string {
	s = s.Canonical()
	var b strings.Builder
	for _, c := range s.Additions() {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
}

// Join returns the union of the states, in canonical order.
func Join(states ...State) State {
	u := State{
		Links:     joined(states, func(s State) []Link { return s.Links }),
		Addresses: joined(states, func(s State) []Address { return s.Addresses }),
		Neighbors: joined(states, func(s State) []Neighbor { return s.Neighbors }),
		Routes:    joined(states, func(s State) []Route { return s.Routes }),
		Rules:     joined(states, func(s State) []Rule { return s.Rules }),
		Sysctls:   joined(states, func(s State) []Sysctl { return s.Sysctls }),
	}
	u.Filter.Chains = joined(states, func(s State) []Chain { return s.Filter.Chains })
	u.Filter.Sources = joined(states, func(s State) []Source { return s.Filter.Sources })
	u.Flows.Chains = joined(states, func(s State) []Chain { return s.Flows.Chains })
	u.Flows.Links = joined(states, func(s State) []FlowLink { return s.Flows.Links })
	u.Sort()
	return u
}

// joined returns a list of the items of all states, nil if there are none.
func joined[T any](states []State, of func(State) []T) (all []T) {
	n := 0
	for _, s := range states {
		n += len(of(s))
	}
	all = slices.Grow(all, n)
	for _, s := range states {
		all = append(all, of(s)...)
	}
	return all
}
