// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"slices"
	"time"
)

// Tag keys that this package writes and reads. The keys of node.k8s.amazonaws.com and
// cluster.k8s.amazonaws.com are also used by amazon-vpc-cni-k8s, so that its tools and
// policies apply to these ENIs too.
const (
	// TagOwner marks an ENI as made by this library; the value is Config.Owner.
	TagOwner = "vpcnet/owner"
	// TagCreated holds the creation time in RFC 3339 format.
	TagCreated = "node.k8s.amazonaws.com/createdAt"
	// TagInstance holds the ID of the instance that the ENI was created for.
	TagInstance = "node.k8s.amazonaws.com/instance_id"
	// TagCluster holds the cluster's name.
	TagCluster = "cluster.k8s.amazonaws.com/name"
	// TagNoManage with the value "true" forbids a Manager to change the ENI.
	TagNoManage = "node.k8s.amazonaws.com/no_manage"
	// TagPod with the value "true" marks an ENI that one pod has as a whole.
	TagPod = "vpcnet/pod"
)

// Kind is the type of an ENI. The values are EC2's interface types.
type Kind string

// The kinds of ENI an instance can have.
const (
	KindInterface Kind = "interface"
	KindTrunk     Kind = "trunk"
	KindBranch    Kind = "branch"
	KindEFA       Kind = "efa"
	KindEFAOnly   Kind = "efa-only" // has no IP addresses
)

// Source is a set of sources of information about ENIs.
type Source uint8

// The sources. They combine as bits.
const (
	SourceEC2      Source = 1 << iota // an EC2 describe call
	SourceMetadata                    // the instance metadata service
	SourceOwn                         // the answer to a change made by this node
)

// String lists the sources, for example "ec2+metadata".
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

// ENI is what is known about one elastic network interface.
type ENI struct {
	ID       string
	MAC      string // as EC2 writes it: six lower-case hex octets with colons
	SubnetID string
	// Subnet and Subnet6 are the subnet's address ranges. A range is the zero
	// Prefix if the subnet lacks that family, or if the range is not known.
	Subnet, Subnet6 netip.Prefix
	// Card and Device are the network card index and the device index. They are
	// valid only while Attachment is set.
	Card, Device int
	// Primary says that this is the ENI with device index 0 on card 0.
	Primary bool
	Kind    Kind
	// Managed says that this node may change the ENI: it carries this node's
	// tags, or is the primary ENI, and no service of AWS manages it.
	Managed bool
	// ManagedBy names the service of AWS that manages the ENI, for example
	// "eks.amazonaws.com". It is empty for other ENIs. This node never changes an
	// ENI of a service.
	ManagedBy string `json:",omitempty"`
	// Addr and Addr6 are the ENI's own addresses, which pods never get. They are
	// the zero Addr if the ENI has no such address. An IPv6 address is the ENI's
	// own if EC2 marks it as primary, or if the metadata service names it as that
	// of the instance, or if it is the only one of the primary ENI or of an ENI
	// without IPv4. The order of addresses does not count. While it is not known
	// which of several addresses is the ENI's own, all of them are doubtful.
	Addr, Addr6 netip.Addr
	// Addrs are the secondary addresses and Prefixes the delegated prefixes, of
	// both families, sorted.
	Addrs    []netip.Addr
	Prefixes []netip.Prefix
	// Doubtful are addresses and prefixes that the sources disagree about. Pods
	// that have them keep them, other pods do not get them, and the Manager does
	// not release them. They are in neither Addrs nor Prefixes.
	Doubtful []netip.Prefix
	Groups   []string // security groups, sorted
	// Attachment is the ID of the ENI attachment, Instance the ID of the
	// instance it belongs to, and Status its state in EC2's words: attaching,
	// attached, detaching.
	Attachment, Instance string
	Status               string
	DeleteOnTermination  bool
	Description          string
	VPCID, Zone          string
	// Tags are the ENI's tags. They are nil if only the metadata service has
	// shown the ENI.
	Tags map[string]string
	// InFlight says that this node is attaching or removing the ENI and has not
	// finished. Pods get no addresses from it.
	InFlight bool
	// Sources are the sources that show the ENI.
	Sources Source
}

// ForPods reports whether pods can have addresses of the ENI: the ENI is managed,
// ready, neither a trunk nor a branch, and not that of one pod.
func (e ENI) ForPods() bool {
	return e.Managed && !e.InFlight && e.Tags[TagPod] != "true" && (e.Kind == KindInterface || e.Kind == KindEFA)
}

// Blocks returns the ENI's slots in use: secondary addresses as /32 and /128,
// then delegated prefixes. It omits the doubtful ones.
func (e ENI) Blocks() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(e.Addrs)+len(e.Prefixes))
	for _, a := range e.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(out, e.Prefixes...)
}

// Slots counts the slots in use of one family, including the doubtful ones.
func (e ENI) Slots(f Family) int {
	n := 0
	for _, p := range slices.Concat(e.Blocks(), e.Doubtful) {
		if FamilyOf(p.Addr()) == f {
			n++
		}
	}
	return n
}

// Gateway returns the VPC router's address for a family. For IPv4 it is the first
// host address of the subnet
// (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html). For
// IPv6 it is fe80:ec2::1, which the router has in every subnet. Gateway returns
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

// clone returns a copy of e with its own lists of blocks.
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

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Instance describes an EC2 instance. Its values rarely change while the
// instance runs.
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

// Subnet is a VPC subnet. Free is the number of free IPv4 addresses that EC2
// reported, or -1 if EC2 was not asked.
type Subnet struct {
	ID, Zone, VPCID string
	Prefix, Prefix6 netip.Prefix
	Free            int
	Tags            map[string]string
}

// Inventory is what is known about the instance's ENIs.
type Inventory struct {
	Instance Instance
	// ENIs are sorted by card, then by device index. The primary ENI comes first.
	ENIs []ENI
	// Source is the set of sources that answered. At is the time when the last
	// of them was asked.
	Source Source
	At     time.Time
	// EC2At and MetadataAt are the times when each source was asked. A time is
	// zero if the source was not asked or did not answer; EC2Err or MetadataErr
	// then gives the reason.
	EC2At, MetadataAt   time.Time
	EC2Err, MetadataErr error
	// Gone lists ENIs that were known before and that both sources now omit.
	Gone []string
	// Trip is set while the latest view differs too much from the previous one
	// to be trusted.
	Trip *Trip
}

// ENI returns the ENI with an ID.
func (inv Inventory) ENI(id string) (ENI, bool) {
	for _, e := range inv.ENIs {
		if e.ID == id {
			return e, true
		}
	}
	return ENI{}, false
}
