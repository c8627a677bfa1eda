// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrNotSupported is returned on every system but Linux.
var ErrNotSupported = fmt.Errorf("fabric: namespaces need Linux: %w", errors.ErrUnsupported)

// Addresses at which the VPC's own services answer from inside it.
var (
	// MetadataAddr and MetadataAddr6 are those of the instance metadata service
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
	MetadataAddr  = netip.MustParseAddr("169.254.169.254")
	MetadataAddr6 = netip.MustParseAddr("fd00:ec2::254")
	// EC2Addr is where the EC2 API answers, from a block reserved for documentation.
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

// Config says what VPC to build. Only VPC is needed.
type Config struct {
	// VPC is the set of address blocks of the VPC, of either family.
	VPC []netip.Prefix
	// Subnets are the subnets to start with; AddSubnet adds more.
	Subnets []Subnet
	// MTU of every link; 0 is 9001, as in a VPC.
	MTU int
	// Dir is where the namespaces are mounted; "" is /run/netns, where `ip
	// netns` finds them.
	Dir string
}

// Subnet is one subnet of the VPC.
type Subnet struct {
	ID   string
	Zone string // availability zone
	// Prefixes has at most one prefix a family. The gateway of an IPv4 subnet
	// is its first address after the base.
	Prefixes []netip.Prefix
}

// Prefix returns the subnet's prefix of the family of a.
func (s Subnet) Prefix(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range s.Prefixes {
		if p.Addr().Is4() == a.Is4() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Gateway returns the VPC's router as seen from an address in the subnet.
func (s Subnet) Gateway(a netip.Addr) netip.Addr {
	if a.Is6() {
		return Gateway6
	}
	if p, ok := s.Prefix(a); ok {
		return p.Masked().Addr().Next()
	}
	return netip.Addr{}
}

// ENI is an elastic network interface attached to an instance.
type ENI struct {
	ID       string
	MAC      net.HardwareAddr
	Instance string // name of the instance; that of the trunk for a branch ENI
	Card     int    // network card index
	Device   int    // device index on the card; 0 on card 0 is the primary ENI
	Subnet   string // ID of the subnet
	// Trunk is the ID of the attached ENI that carries this one, which is then a
	// branch ENI: its packets are those with the VLAN ID on the trunk's link.
	Trunk string
	VLAN  int
	// Addr is the primary private IPv4 address. It may be missing only on an
	// ENI that has IPv6 addresses.
	Addr netip.Addr
	// Addrs are the further addresses the ENI owns, of either family.
	Addrs []netip.Addr
	// Prefixes are the prefixes delegated to the ENI.
	Prefixes []netip.Prefix
	// Unchecked switches the source check off, as EC2 can.
	Unchecked bool
	// Public says that the primary address may pass the internet gateway.
	Public bool
}

// Link returns the name under which the ENI appears in its instance: ens5 for
// device 0 of card 0, ens6 for device 1, and so on; further cards count on from
// ens37, ens69, … A branch ENI has no link but its trunk's, and no name.
func (e ENI) Link() string {
	if e.branch() {
		return ""
	}
	return fmt.Sprintf("ens%d", 5+e.Device+32*e.Card)
}

// Primary reports whether e is the primary ENI of its instance.
func (e ENI) Primary() bool { return e.Card == 0 && e.Device == 0 && !e.branch() }

func (e ENI) branch() bool { return e.Trunk != "" }

// Drops are packets the VPC refused to carry.
type Drops struct {
	// Spoofed counts, by ENI ID, packets whose source the ENI does not own.
	Spoofed map[string]uint64
	// InternetGateway counts packets that had no right to pass it.
	InternetGateway uint64
}
