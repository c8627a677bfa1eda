// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"net/netip"
	"slices"
	"strings"
)

// Rules are the rules of a VPC. The zero value has no rules: every subnet routes to
// the internet gateway and to the peer network, and nothing is filtered.
type Rules struct {
	// Blocks are address blocks of the VPC, each with a local route in every route
	// table.
	Blocks      []netip.Prefix
	RouteTables []RouteTable
	ACLs        []ACL
	Groups      []Group
}

// RouteTable is a VPC route table. The local routes are not in Routes: they follow from
// the blocks of the VPC.
type RouteTable struct {
	ID string
	// Main means that the table is for the subnets that no table lists.
	Main bool
	// Subnets are the IDs of the subnets that are associated with the table.
	Subnets []string
	Routes  []Route
}

// Route is a route of a VPC route table.
type Route struct {
	Destination netip.Prefix
	Target      Target
}

// TargetKind is the kind of the target of a route.
type TargetKind int

// The kinds of targets. The zero value is Blackhole.
const (
	// Blackhole means that the VPC drops the packet, because the target does not exist
	// or because there is no route.
	Blackhole TargetKind = iota
	// Local means that the VPC delivers the packet to the ENI that owns the destination.
	Local
	// ToENI means that the VPC delivers the packet to one ENI.
	ToENI
	// Internet is the internet gateway.
	Internet
	// Peer is the network behind a transit gateway, a peering connection, or a virtual
	// private gateway.
	Peer
)

// Target is the target of a route.
type Target struct {
	Kind TargetKind
	ENI  string // ID of the ENI; only of the kind ToENI
}

// ParseTarget returns the target that an ID of EC2 stands for. An ID of another kind of
// target, such as a NAT gateway, gives a Blackhole, because the fabric has none.
func ParseTarget(id string) Target {
	prefix, _, _ := strings.Cut(id, "-")
	switch prefix {
	case "local":
		return Target{Kind: Local}
	case "eni":
		return Target{Kind: ToENI, ENI: id}
	case "igw", "eigw":
		return Target{Kind: Internet}
	case "tgw", "pcx", "vgw":
		return Target{Kind: Peer}
	}
	return Target{}
}

// ACL is a network ACL. It denies the packets that no entry matches.
type ACL struct {
	ID      string
	Subnets []string // IDs of the associated subnets
	Entries []Entry
}

// Entry is an entry of a network ACL. Of the entries that match a packet, the one with
// the lowest number decides.
type Entry struct {
	Number int
	Egress bool
	Allow  bool
	Traffic
	Prefix netip.Prefix // source of inbound packets, destination of outbound packets
}

// Group is a security group. The rules of all groups of an ENI apply together.
type Group struct {
	ID    string
	Rules []Rule
}

// Rule is a rule of a security group. It allows traffic with one Prefix or with the
// members of one Group.
type Rule struct {
	Egress bool
	Traffic
	Prefix netip.Prefix
	// Group is the ID of a security group. The rule allows the private addresses and
	// delegated prefixes of the ENIs that have the group.
	Group string
}

// All stands for all protocols, ports, ICMP types, or ICMP codes.
const All = -1

// IP protocol numbers.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Traffic selects packets by protocol and port.
type Traffic struct {
	// Protocol is an IP protocol number or All.
	Protocol int
	// From and To are the first and the last destination port of TCP and UDP. Of ICMP
	// and ICMPv6, From is the type and To is the code. A From that is All selects all
	// packets of the protocol. Other protocols do not use them.
	From, To int
}

// ENI holds the properties of an attached ENI that the rules depend on.
type ENI struct {
	ID     string
	Subnet string
	// Owned are the addresses and delegated prefixes of the ENI.
	Owned []netip.Prefix
	// Groups are the IDs of its security groups. The ENI is not filtered if none of
	// them is in the Rules.
	Groups []string
	// Unchecked disables the source/destination check.
	Unchecked bool
}

func (e ENI) owns(a netip.Addr) bool {
	return slices.ContainsFunc(e.Owned, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Network holds all that the treatment of a packet depends on, except for the tracked
// flows.
type Network struct {
	Rules
	ENIs []ENI
	// Public are the IPv4 addresses that the internet gateway passes.
	Public []netip.Addr
	// Peers are the addresses of the peer network, for subnets without a route table.
	Peers []netip.Prefix
}
