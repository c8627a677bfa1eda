// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"slices"
	"time"
)

// Tag keys that this package writes and reads. The last three are those of
// amazon-vpc-cni-k8s, so that tools and policies made for it see our ENIs too.
const (
	// TagOwner marks an ENI as made by this library; the value is Config.Owner.
	TagOwner = "vpcnet/owner"
	// TagCreated holds the creation time in RFC 3339.
	TagCreated = "node.k8s.amazonaws.com/createdAt"
	// TagInstance holds the ID of the instance that the ENI was made for.
	TagInstance = "node.k8s.amazonaws.com/instance_id"
	// TagCluster holds the cluster's name.
	TagCluster = "cluster.k8s.amazonaws.com/name"
	// TagNoManage with the value "true" takes an ENI out of our hands.
	TagNoManage = "node.k8s.amazonaws.com/no_manage"
)

// Kind is what an ENI is for. The values are EC2's interface types.
type Kind string

// The kinds of ENI an instance can have.
const (
	KindInterface Kind = "interface"
	KindTrunk     Kind = "trunk"
	KindBranch    Kind = "branch"
	KindEFA       Kind = "efa"
	KindEFAOnly   Kind = "efa-only" // has no IP addresses
)

// Source is who said something about ENIs.
type Source uint8

// The sources; they combine as bits.
const (
	SourceEC2      Source = 1 << iota // an EC2 describe call
	SourceMetadata                    // the instance metadata service
	SourceOwn                         // the answer to a mutation of this node
)

// String lists the sources, as "ec2+metadata".
func (s Source) String() string {
	out := ""
	for _, n := range []struct {
		bit  Source
		name string
	}{{SourceEC2, "ec2"}, {SourceMetadata, "metadata"}, {SourceOwn, "own"}} {
		if s&n.bit == 0 {
			continue
		}
		if out != "" {
			out += "+"
		}
		out += n.name
	}
	if out == "" {
		return "none"
	}
	return out
}

// ENI is one elastic network interface as far as it is known.
type ENI struct {
	ID       string
	MAC      string // as EC2 writes it: six lower-case hex octets with colons
	SubnetID string
	// Subnet and Subnet6 are the subnet's address ranges. They are the zero
	// Prefix for a family the subnet does not have, or that is not known.
	Subnet, Subnet6 netip.Prefix
	// Card and Device are the network card index and the device index; they
	// mean something only while Attachment is set.
	Card, Device int
	// Primary says that this is the ENI with device index 0 on card 0.
	Primary bool
	Kind    Kind
	// Managed says that this node may change the ENI: it carries our tags, or
	// is the primary one.
	Managed bool
	// Addr and Addr6 are the ENI's own addresses, never a pod's; the zero Addr
	// where it has none. An own IPv6 address is the first one of the primary
	// ENI, which is the instance's, or of an ENI without IPv4, or one marked as
	// primary.
	Addr, Addr6 netip.Addr
	// Addrs are the secondary addresses and Prefixes the delegated prefixes,
	// of both families, in order.
	Addrs    []netip.Addr
	Prefixes []netip.Prefix
	// Doubtful are addresses and prefixes that the sources do not agree on:
	// pods that have them keep them, nobody else gets them, and they are not
	// released. They are in neither Addrs nor Prefixes.
	Doubtful []netip.Prefix
	Groups   []string // security groups, sorted
	// Attachment is the ID of the ENI attachment, Instance whose it is, and
	// Status its state as EC2 spells it: attaching, attached, detaching.
	Attachment, Instance string
	Status               string
	DeleteOnTermination  bool
	Description          string
	VPCID, Zone          string
	// Tags are the ENI's tags; nil where only the metadata service was asked.
	Tags map[string]string
	// InFlight says that an operation of ours on the ENI is not finished: it is
	// being attached, or on its way out. Pods get nothing of it.
	InFlight bool
	// Sources is who knows the ENI.
	Sources Source
}

// ForPods says whether pods can have addresses of the ENI: it is managed, ready,
// and neither trunk nor branch.
func (e ENI) ForPods() bool {
	return e.Managed && !e.InFlight && (e.Kind == KindInterface || e.Kind == KindEFA)
}

// Blocks are the ENI's slots in use: secondary addresses as /32 and /128, and
// delegated prefixes. Doubtful ones are not among them.
func (e ENI) Blocks() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(e.Addrs)+len(e.Prefixes))
	for _, a := range e.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(out, e.Prefixes...)
}

// Slots counts the slots in use of one family, those in doubt included.
func (e ENI) Slots(f Family) int {
	n := 0
	for _, p := range slices.Concat(e.Blocks(), e.Doubtful) {
		if FamilyOf(p.Addr()) == f {
			n++
		}
	}
	return n
}

// Gateway is the VPC router's address for a family: the first of the subnet for
// IPv4 (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html).
// For IPv6 it is fe80:ec2::1, which the router answers in every subnet. It is
// the zero Addr if the subnet's range is not known.
func (e ENI) Gateway(f Family) netip.Addr {
	if f == IPv6 {
		if !e.Subnet6.IsValid() {
			return netip.Addr{}
		}
		return netip.AddrFrom16([16]byte{0xfe, 0x80, 0x0e, 0xc2, 15: 1})
	}
	if !e.Subnet.IsValid() {
		return netip.Addr{}
	}
	return e.Subnet.Masked().Addr().Next()
}

// clone copies e so that its lists can be changed.
func (e ENI) clone() ENI {
	e.Addrs = slices.Clone(e.Addrs)
	e.Prefixes = slices.Clone(e.Prefixes)
	e.Doubtful = slices.Clone(e.Doubtful)
	return e
}

// Family is an IP version.
type Family uint8

// The IP versions.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String is "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Instance is what does not change while an instance runs, or hardly ever.
type Instance struct {
	ID, Type, Zone, VPCID string
	// PrimaryENI and PrimaryMAC name the ENI with device index 0 on card 0.
	PrimaryENI, PrimaryMAC string
	// PrimarySubnet is the subnet of the primary ENI.
	PrimarySubnet Subnet
	// Groups are the security groups of the primary ENI, sorted.
	Groups []string
	// VPC holds the address ranges of the VPC, of both families.
	VPC []netip.Prefix
}

// Subnet is a VPC subnet. Free is how many IPv4 addresses EC2 said were free,
// -1 if it was not asked.
type Subnet struct {
	ID, Zone, VPCID string
	Prefix, Prefix6 netip.Prefix
	Free            int
	Tags            map[string]string
}

// Inventory is what is known of the instance's ENIs.
type Inventory struct {
	Instance Instance
	// ENIs are sorted by card, then device index; the primary ENI comes first.
	ENIs []ENI
	// Source says who was heard, and At when the latest of them was asked.
	Source Source
	At     time.Time
	// EC2At and MetadataAt are when each source was asked; zero if it was not,
	// or did not answer, in which case EC2Err or MetadataErr says why.
	EC2At, MetadataAt   time.Time
	EC2Err, MetadataErr error
	// Gone are ENIs that were known before and that both sources now deny.
	Gone []string
	// Trip is set while a view is too different from the one before to be
	// believed.
	Trip *Trip
}

// ENI looks an ENI up by its ID.
func (inv Inventory) ENI(id string) (ENI, bool) {
	for _, e := range inv.ENIs {
		if e.ID == id {
			return e, true
		}
	}
	return ENI{}, false
}
