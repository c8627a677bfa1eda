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
}

// Subnet is a subnet of a VPC.
type Subnet struct {
	ID, VPC string
	// Zone is the availability zone's name, such as us-west-2a.
	Zone string
	// Prefix is the IPv4 prefix; not valid if the subnet has only IPv6.
	Prefix netip.Prefix `json:",omitzero"`
	// IPv6 is the subnet's /64; not valid if it has none.
	IPv6 netip.Prefix `json:",omitzero"`
	// MapPublic gives a public address to the primary ENI of new instances.
	MapPublic bool
	// Free is the number of unused IPv4 addresses.
	Free int
	// Occupied are addresses taken by something the model does not show.
	Occupied     []netip.Addr      `json:",omitzero"`
	Reservations []Reservation     `json:",omitzero"`
	Tags         map[string]string `json:",omitzero"`
}

// Reservation is a subnet CIDR reservation.
type Reservation struct {
	ID     string
	Prefix netip.Prefix
	// Type is "prefix" (used for delegated prefixes only) or "explicit"
	// (never used unless asked for).
	Type        string
	Description string            `json:",omitzero"`
	Tags        map[string]string `json:",omitzero"`
}

// SecurityGroup is a security group. Its rules are not modelled.
type SecurityGroup struct {
	ID, VPC, Name, Description string
	Tags                       map[string]string
}

// Instance is an EC2 instance.
type Instance struct {
	ID, Type, VPC, Subnet, Zone string
	Reservation                 string
	Image                       string `json:",omitzero"`
	LaunchedAt                  time.Time
	// RunningAt and TerminatedAt are when the instance reaches these states;
	// TerminatedAt and TerminatingAt are zero while nobody has asked for it.
	RunningAt                   time.Time
	TerminatingAt, TerminatedAt time.Time `json:",omitzero"`
	// MetadataV1 lets metadata be read without a session token.
	MetadataV1 bool              `json:",omitzero"`
	Tags       map[string]string `json:",omitzero"`
}

// ENI is an elastic network interface.
type ENI struct {
	ID, VPC, Subnet, Zone string
	// SubnetPrefix is the IPv4 prefix of the subnet, SubnetIPv6 its IPv6 one.
	SubnetPrefix, SubnetIPv6 netip.Prefix
	Description              string `json:",omitzero"`
	// Type is "interface", "trunk", "branch", "efa" or "efa-only".
	Type string
	MAC  string
	// Addr is the primary private IP; not valid for an ENI without IPv4.
	Addr netip.Addr `json:",omitzero"`
	// Public is the public address of Addr; not valid if there is none.
	Public netip.Addr `json:",omitzero"`
	// Addrs are the secondary private IPs and Prefixes the delegated /28s.
	Addrs    []netip.Addr   `json:",omitzero"`
	Prefixes []netip.Prefix `json:",omitzero"`
	// IPv6Addrs and IPv6Prefixes are the IPv6 addresses and delegated /80s.
	IPv6Addrs    []netip.Addr   `json:",omitzero"`
	IPv6Prefixes []netip.Prefix `json:",omitzero"`
	Groups       []string
	// SourceDestCheck is whether EC2 drops packets that are not from or for
	// this ENI's addresses.
	SourceDestCheck bool
	// Requester is the caller that created the ENI.
	Requester  string
	Attachment *Attachment `json:",omitzero"`
	// Trunk is the association of a branch ENI with its trunk.
	Trunk *TrunkAssociation `json:",omitzero"`
	Tags  map[string]string `json:",omitzero"`
	// Tracking is the idle time-outs of connection tracking, in seconds.
	Tracking *ConnectionTracking `json:",omitzero"`
}

// Attachment is EC2's binding of an ENI to an instance.
type Attachment struct {
	ID, Instance string
	// Card and Device are the network card index and the device index.
	Card, Device        int
	DeleteOnTermination bool
	AttachTime          time.Time
	// AttachedAt is when "attaching" ends. DetachedAt is when "detaching"
	// ends; zero while nobody has asked for it.
	AttachedAt time.Time
	DetachedAt time.Time `json:",omitzero"`
}

// TrunkAssociation binds a branch ENI to a trunk ENI.
type TrunkAssociation struct {
	ID, Trunk string
	VLANID    int
}

// ConnectionTracking is the idle time-outs of security groups' connection
// tracking, in seconds. Zero means the default.
type ConnectionTracking struct {
	TCPEstablished, UDPStream, UDP int
}

// Status is the state of the ENI at t: "available", "attaching",
// "in-use" or "detaching".
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

// Status is the attachment's state as EC2 reports it at t: "attaching",
// "attached", "detaching" or "detached". A nil attachment is detached.
func (a *Attachment) Status(t time.Time) string {
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

// State is the instance's state as EC2 reports it at t.
func (i Instance) State(t time.Time) string {
	switch {
	case !i.TerminatedAt.IsZero() && !t.Before(i.TerminatedAt):
		return "terminated"
	case !i.TerminatingAt.IsZero() && !t.Before(i.TerminatingAt):
		return "shutting-down"
	case t.Before(i.RunningAt):
		return "pending"
	}
	return "running"
}

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

// seenAt is e as it presents itself at t: once detached, an ENI has no
// attachment any more.
func (e *ENI) seenAt(t time.Time) *ENI {
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
	d.Tags = maps.Clone(g.Tags)
	return &d
}
