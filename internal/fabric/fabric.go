// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// ErrNotSupported is the error of all operations on systems other than Linux.
var ErrNotSupported = fmt.Errorf("fabric: namespaces need Linux: %w", errors.ErrUnsupported)

// The addresses of the services of the VPC and of the hosts outside it.
var (
	// MetadataAddr and metadataAddr6 are the addresses of the instance metadata
	// service
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
	MetadataAddr  = netip.MustParseAddr("169.254.169.254")
	metadataAddr6 = netip.MustParseAddr("fd00:ec2::254")
	// EC2Addr is the address of the EC2 API, from a block reserved for documentation.
	EC2Addr = netip.MustParseAddr("198.51.100.1")
	// Gateway6 is the IPv6 address of the VPC's router on every link
	// (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-route-tables.html).
	Gateway6 = netip.MustParseAddr("fe80:ec2::1")
	// InternetAddr and InternetAddr6 are the addresses of the host in the internet.
	InternetAddr  = netip.MustParseAddr("203.0.113.10")
	InternetAddr6 = netip.MustParseAddr("2001:db8:ffff::10")
	// PeerAddr and PeerAddr6 are the addresses of the host in the peer network.
	PeerAddr  = netip.MustParseAddr("192.168.100.10")
	PeerAddr6 = netip.MustParseAddr("fd00:100::10")
)

// Config describes the VPC to build. Only the field VPC is required.
type Config struct {
	// VPC holds the address blocks of the VPC, of either family.
	VPC []netip.Prefix
	// Subnets are the subnets that New adds; AddSubnet adds more.
	Subnets []Subnet
	// MTU is the MTU of every link. 0 means 9001, as in a VPC.
	MTU int
	// PeerAddrs are further addresses of the host in the peer network, in addition
	// to PeerAddr and PeerAddr6.
	PeerAddrs []netip.Addr
	// Dir is the directory in which the namespaces are mounted. "" means
	// /run/netns, where `ip netns` finds them.
	Dir string
}

// Subnet is one subnet of the VPC.
type Subnet struct {
	ID   string
	Zone string // availability zone
	// Prefixes holds at most one prefix of each family. The gateway of an IPv4
	// subnet is the second address of its prefix.
	Prefixes []netip.Prefix
}

// prefix returns the subnet's prefix of the family of a.
func (s Subnet) prefix(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range s.Prefixes {
		if p.Addr().Is4() == a.Is4() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// gateway returns the address of the VPC's router in the subnet, of the family
// of a.
func (s Subnet) gateway(a netip.Addr) netip.Addr {
	if a.Is6() {
		return Gateway6
	}
	if p, ok := s.prefix(a); ok {
		return p.Masked().Addr().Next()
	}
	return netip.Addr{}
}

// ENI is an elastic network interface attached to an instance.
type ENI struct {
	ID       string
	MAC      net.HardwareAddr
	Instance string // name of the instance; Attach sets it for a branch ENI
	Card     int    // network card index
	Device   int    // device index on the card; 0 on card 0 is the primary ENI
	Subnet   string // ID of the subnet
	// Trunk is the ID of the trunk ENI if this ENI is a branch ENI. Its packets are
	// then the packets with the VLAN ID on the link of the trunk ENI.
	Trunk string
	VLAN  int
	// Addr is the primary private IPv4 address. It may be the zero Addr only if the
	// ENI has IPv6 addresses.
	Addr netip.Addr
	// Addrs are the other addresses of the ENI, of either family.
	Addrs []netip.Addr
	// Prefixes are the prefixes delegated to the ENI.
	Prefixes []netip.Prefix
	// Unchecked disables EC2's source/destination check.
	Unchecked bool
	// Public means that the internet gateway passes packets from and to Addr.
	Public bool
	// Groups are the IDs of the security groups. The ENI is not filtered if none of them
	// is in the rules that SetRules has set.
	Groups []string
}

// Attributes are the attributes of an attached ENI that can change, except for its
// addresses. The fields have the meaning of those of ENI.
type Attributes struct {
	Unchecked, Public bool
	Groups            []string
}

// FlowLogInput describes a flow log.
type FlowLogInput struct {
	// Account is the account ID of the records. Empty means 123456789012.
	Account string
	// Interval is the aggregation interval: a record covers at most this time. 0 means a
	// minute. It must not be shorter than a second.
	Interval time.Duration
}

// Link returns the name of the ENI's link in its instance: ens5 for device 0 of
// card 0, ens6 for device 1, and so on; the links of the next cards begin at
// ens37, ens69, … For a branch ENI, which has no link, it returns "".
func (e ENI) Link() string {
	if e.branch() {
		return ""
	}
	return fmt.Sprintf("ens%d", 5+e.Device+32*e.Card)
}

// Primary reports whether e is the primary ENI of its instance.
func (e ENI) Primary() bool { return e.Card == 0 && e.Device == 0 && !e.branch() }

func (e ENI) branch() bool { return e.Trunk != "" }

// Drops counts the packets that the VPC dropped.
type Drops struct {
	// Spoofed counts the packets with a source that the sending ENI does not own,
	// by ENI ID.
	Spoofed map[string]uint64
	// Foreign counts the packets for an address that the ENI does not own, to which a
	// route of a VPC route table leads, by ENI ID.
	Foreign map[string]uint64
	// InternetGateway counts the packets from or to a private IPv4 address that is
	// not public.
	InternetGateway uint64
	// SecurityGroups and NetworkACLs count the packets that they denied.
	SecurityGroups, NetworkACLs uint64
}
