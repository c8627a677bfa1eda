// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// VPC is a virtual private cloud.
type VPC struct {
	ID string
	// Prefixes are the IPv4 blocks, the primary one first.
	Prefixes []netip.Prefix
	// IPv6 are the IPv6 blocks.
	IPv6 []netip.Prefix    `json:",omitzero"`
	Tags map[string]string `json:",omitzero"`
	// NoDNSSupport and NoDNSHostnames mean that the attributes enableDnsSupport and
	// enableDnsHostnames are off. Without DNS hostnames no answer has a public DNS name.
	NoDNSSupport, NoDNSHostnames bool `json:",omitzero"`
	// UsageMetrics is the attribute enableNetworkAddressUsageMetrics.
	UsageMetrics bool `json:",omitzero"`
}

// Subnet is a subnet of a VPC.
type Subnet struct {
	ID, VPC string
	// Zone is the availability zone's name, such as us-west-2a.
	Zone string
	// Prefix is the IPv4 prefix. It is the zero Prefix if the subnet has only IPv6.
	Prefix netip.Prefix `json:",omitzero"`
	// IPv6 is the /64 of the subnet. It is the zero Prefix if the subnet has only
	// IPv4.
	IPv6 netip.Prefix `json:",omitzero"`
	// MapPublic gives a public address to the primary ENI of new instances.
	MapPublic bool
	// AssignIPv6 gives an IPv6 address to each new ENI.
	AssignIPv6 bool `json:",omitzero"`
	// DNS64, HostnameType, RecordA and RecordAAAA are attributes without an effect on a
	// Cloud. An empty HostnameType means ip-name.
	DNS64        bool   `json:",omitzero"`
	HostnameType string `json:",omitzero"`
	RecordA      bool   `json:",omitzero"`
	RecordAAAA   bool   `json:",omitzero"`
	// Free is the number of unused IPv4 addresses.
	Free int
	// Occupied are the addresses taken with Cloud.Occupy.
	Occupied     []netip.Addr      `json:",omitzero"`
	Reservations []Reservation     `json:",omitzero"`
	Tags         map[string]string `json:",omitzero"`
}

// Reservation is a subnet CIDR reservation.
type Reservation struct {
	ID     string
	Prefix netip.Prefix
	// Type is "prefix" or "explicit". EC2 chooses only delegated prefixes from a
	// reservation of type "prefix", and nothing from one of type "explicit".
	Type        string
	Description string            `json:",omitzero"`
	Tags        map[string]string `json:",omitzero"`
}

// SecurityGroup is a security group.
type SecurityGroup struct {
	ID, VPC, Name, Description string
	Rules                      []GroupRule `json:",omitzero"`
	Tags                       map[string]string
}

// Instance is an EC2 instance.
type Instance struct {
	ID, Type, VPC, Subnet, Zone string
	Reservation                 string
	Image                       string `json:",omitzero"`
	LaunchedAt                  time.Time
	// RunningAt is when the state becomes "running". TerminatingAt is when it
	// becomes "shutting-down", and TerminatedAt when it becomes "terminated"; both
	// are zero until a call terminates the instance.
	RunningAt                   time.Time
	TerminatingAt, TerminatedAt time.Time `json:",omitzero"`
	// StoppingAt is when the state became "stopping", and StoppedAt when it became
	// "stopped"; both are zero while the instance is not stopped.
	StoppingAt, StoppedAt time.Time `json:",omitzero"`
	// StartedAt is when a call last started the stopped instance.
	StartedAt time.Time `json:",omitzero"`
	// AutoPublic means that the primary ENI has a public address that is not an Elastic
	// IP address, and gets a new one with each start.
	AutoPublic bool `json:",omitzero"`
	// MetadataV1 allows requests for metadata without a session token.
	MetadataV1 bool `json:",omitzero"`
	// MetadataTags means that metadata shows the tags of the instance.
	MetadataTags bool `json:",omitzero"`
	// UserData is the text that metadata shows as user-data.
	UserData string `json:",omitzero"`
	// LaunchIndex counts the instances of one RunInstances call, from 0.
	LaunchIndex int `json:",omitzero"`
	// Operator is the service that manages the instance, such as eks.amazonaws.com;
	// empty means none.
	Operator string            `json:",omitzero"`
	Tags     map[string]string `json:",omitzero"`
}

// ENI is an elastic network interface.
type ENI struct {
	ID, VPC, Subnet, Zone string
	// SubnetPrefix and SubnetIPv6 are the prefixes of the subnet.
	SubnetPrefix, SubnetIPv6 netip.Prefix
	Description              string `json:",omitzero"`
	// Type is "interface", "trunk", "branch", "efa" or "efa-only".
	Type string
	MAC  string
	// Addr is the primary private IP. It is the zero Addr if the ENI has no IPv4.
	Addr netip.Addr `json:",omitzero"`
	// Public is the public address of Addr. It is the zero Addr if there is none.
	Public netip.Addr `json:",omitzero"`
	// Addrs are the secondary private IPs and Prefixes the delegated /28s.
	Addrs    []netip.Addr   `json:",omitzero"`
	Prefixes []netip.Prefix `json:",omitzero"`
	// IPv6Addrs and IPv6Prefixes are the IPv6 addresses and delegated /80s.
	IPv6Addrs    []netip.Addr   `json:",omitzero"`
	IPv6Prefixes []netip.Prefix `json:",omitzero"`
	// PrimaryIPv6 means that the first of IPv6Addrs is the primary IPv6 address.
	PrimaryIPv6 bool `json:",omitzero"`
	Groups      []string
	// SourceDestCheck means that EC2 drops packets that are neither from nor for
	// an address of this ENI.
	SourceDestCheck bool
	// Requester is the caller that created the ENI.
	Requester string
	// RequesterManaged means that an AWS service manages the ENI, see
	// Cloud.AddForeignENI.
	RequesterManaged bool `json:",omitzero"`
	// Operator is the service that manages the ENI together with its instance, such
	// as eks.amazonaws.com; empty means none.
	Operator   string         `json:",omitzero"`
	Attachment *ENIAttachment `json:",omitzero"`
	// Trunk is the association of a branch ENI with its trunk ENI.
	Trunk *TrunkAssociation `json:",omitzero"`
	Tags  map[string]string `json:",omitzero"`
	// Tracking holds the idle timeouts of connection tracking. Nil means the
	// defaults.
	Tracking *ConnectionTracking `json:",omitzero"`
}

// ENIAttachment is EC2's binding of an ENI to an instance.
type ENIAttachment struct {
	ID, Instance string
	// InstanceOwner is the owner of the machine if it belongs to a service; Instance
	// is then empty. An empty InstanceOwner means the account of the Cloud.
	InstanceOwner string `json:",omitzero"`
	// Card and Device are the network card index and the device index.
	Card, Device int
	// Primary means that the ENI is the primary ENI of the instance: device 0 of the default
	// network card.
	Primary             bool `json:",omitzero"`
	DeleteOnTermination bool
	// EnaQueues is the number of ENA queues that the caller has chosen; 0 means the
	// default.
	EnaQueues  int `json:",omitzero"`
	AttachTime time.Time
	// AttachedAt is when the status changes from "attaching" to "attached".
	// DetachedAt is when "detaching" ends; it is zero until a call detaches the ENI.
	AttachedAt time.Time
	DetachedAt time.Time `json:",omitzero"`
}

// TrunkAssociation binds a branch ENI to a trunk ENI.
type TrunkAssociation struct {
	ID, Trunk string
	VLANID    int
}

// ConnectionTracking holds the idle timeouts of the connection tracking of
// security groups, in seconds. Zero means the default.
type ConnectionTracking struct {
	TCPEstablished, UDPStream, UDP int
}

// Status returns the status of the ENI at t: "available", "attaching", "in-use"
// or "detaching".
func (e ENI) Status(t time.Time) string {
	switch e.Attachment.Status(t) {
	case "attached":
		return "in-use"
	case "detached":
		if e.Trunk != nil {
			return "in-use"
		}
		return "available"
	case "attaching":
		return "attaching"
	default:
		return "detaching"
	}
}

// Status returns the status of the attachment at t, as EC2 reports it:
// "attaching", "attached", "detaching" or "detached". A nil attachment is detached.
func (a *ENIAttachment) Status(t time.Time) string {
	switch {
	case a == nil, !a.DetachedAt.IsZero() && !t.Before(a.DetachedAt):
		return "detached"
	case !a.DetachedAt.IsZero():
		return "detaching"
	case t.Before(a.AttachedAt):
		return "attaching"
	}
	return "attached"
}

// State returns the state of the instance at t, as EC2 reports it: "pending",
// "running", "stopping", "stopped", "shutting-down" or "terminated".
func (i Instance) State(t time.Time) string {
	switch {
	case !i.TerminatedAt.IsZero() && !t.Before(i.TerminatedAt):
		return "terminated"
	case !i.TerminatingAt.IsZero() && !t.Before(i.TerminatingAt):
		return "shutting-down"
	case !i.StoppedAt.IsZero() && !t.Before(i.StoppedAt):
		return "stopped"
	case !i.StoppingAt.IsZero() && !t.Before(i.StoppingAt):
		return "stopping"
	case t.Before(i.RunningAt):
		return "pending"
	}
	return "running"
}

// hasDevices reports whether attached ENIs are devices of the instance: until a call stops
// or terminates it, and again when a call has started it.
func (i *Instance) hasDevices() bool { return i.StoppingAt.IsZero() && i.TerminatingAt.IsZero() }

// clone returns a copy that shares nothing with e.
func (e *ENI) clone() *ENI {
	d := *e
	d.Addrs = slices.Clone(e.Addrs)
	d.Prefixes = slices.Clone(e.Prefixes)
	d.IPv6Addrs = slices.Clone(e.IPv6Addrs)
	d.IPv6Prefixes = slices.Clone(e.IPv6Prefixes)
	d.Groups = slices.Clone(e.Groups)
	d.Tags = maps.Clone(e.Tags)
	if e.Attachment != nil {
		a := *e.Attachment
		d.Attachment = &a
	}
	if e.Trunk != nil {
		t := *e.Trunk
		d.Trunk = &t
	}
	if e.Tracking != nil {
		t := *e.Tracking
		d.Tracking = &t
	}
	return &d
}

// viewAt returns e as EC2 shows it at t: without its attachment if that has ended
// by then.
func (e *ENI) viewAt(t time.Time) *ENI {
	if e == nil || e.Attachment == nil || e.Attachment.Status(t) != "detached" {
		return e
	}
	d := *e
	d.Attachment = nil
	return &d
}

func (i *Instance) clone() *Instance {
	d := *i
	d.Tags = maps.Clone(i.Tags)
	return &d
}

func (s *Subnet) clone() *Subnet {
	d := *s
	d.Occupied = slices.Clone(s.Occupied)
	d.Reservations = slices.Clone(s.Reservations)
	for i := range d.Reservations {
		d.Reservations[i].Tags = maps.Clone(d.Reservations[i].Tags)
	}
	d.Tags = maps.Clone(s.Tags)
	return &d
}

func (v *VPC) clone() *VPC {
	d := *v
	d.Prefixes = slices.Clone(v.Prefixes)
	d.IPv6 = slices.Clone(v.IPv6)
	d.Tags = maps.Clone(v.Tags)
	return &d
}

func (g *SecurityGroup) clone() *SecurityGroup {
	d := *g
	d.Rules, d.Tags = slices.Clone(g.Rules), maps.Clone(g.Tags)
	return &d
}
