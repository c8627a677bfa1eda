// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
)

// The kind of the association of a block with a VPC.
var kindVPCBlock = kind{"vpc-cidr-assoc-", "vpc CIDR block association ID", "InvalidVpcCidrBlockAssociationID.NotFound", ""}

func (t *tx) wireVPC(v *VPC) wireVPC {
	return wireVPC{
		ID: v.ID, OwnerID: t.c.cfg.Account, State: "available", CIDRBlock: v.Prefixes[0].String(),
		DHCPOptions: derivedID("dopt-", v.ID),
		IPv4: listOf(v.Prefixes, func(p netip.Prefix) wireCIDRVPC {
			return wireCIDRVPC{v.associationID(p), p.String(), "associated"}
		}),
		IPv6: listOf(v.IPv6, func(p netip.Prefix) wireIPv6CIDRSubnet {
			return wireIPv6CIDRSubnet{v.associationID(p), p.String(), "associated"}
		}),
		Tenancy: "default", Tags: wireTags(v.Tags),
	}
}

// associationID returns the ID of the association of a block with the VPC. It
// derives from the ID of the VPC and, except for the first block, from the block.
func (v *VPC) associationID(p netip.Prefix) string {
	if p == v.Prefixes[0] {
		return derivedID(kindVPCBlock.prefix, v.ID)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(v.ID + p.String())) // never fails
	return fmt.Sprintf("%s0%016x", kindVPCBlock.prefix, h.Sum64())
}

type createVPCIn struct {
	CIDR     netip.Prefix   `ec2:"CidrBlock"`
	IPv6     bool           `ec2:"AmazonProvidedIpv6CidrBlock"`
	IPv6CIDR netip.Prefix   `ec2:"Ipv6CidrBlock"`
	Tenancy  ignored        `ec2:"InstanceTenancy"`
	Border   ignored        `ec2:"Ipv6CidrBlockNetworkBorderGroup"`
	Pool     ignored        `ec2:"Ipv6Pool"`
	Tags     []tagSpecParam `ec2:"TagSpecification"`
}

type createVPCOut struct {
	VPC wireVPC `xml:"vpc"`
}

// checkVPCBlock returns EC2's error if a VPC cannot have an IPv4 block of this size.
func checkVPCBlock(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return missing("cidrBlock")
	case !p.Addr().Is4() || p != p.Masked():
		return invalidValue("Value (%s) for parameter cidrBlock is invalid. This is not a valid CIDR block.", p)
	case p.Bits() < 16 || p.Bits() > 28:
		return errorf("InvalidVpc.Range", "The CIDR '%s' is invalid.", p)
	}
	return nil
}

// newIPv6Block returns a /56 out of the block reserved for documentation.
func (t *tx) newIPv6Block() netip.Prefix {
	t.c.state.serial++
	var b [16]byte
	binary.BigEndian.PutUint32(b[:], 0x20010db8)
	binary.BigEndian.PutUint32(b[4:], uint32(t.c.state.serial)<<8|1<<31)
	return netip.PrefixFrom(netip.AddrFrom16(b), 56)
}

func (t *tx) createVpc(in createVPCIn) (createVPCOut, error) {
	if err := checkVPCBlock(in.CIDR); err != nil {
		return createVPCOut{}, err
	}
	tags, err := tagsFor("vpc", in.Tags)
	if err != nil {
		return createVPCOut{}, err
	}
	blocks := []netip.Prefix{in.CIDR}
	if in.IPv6 {
		blocks = append(blocks, t.newIPv6Block())
	}
	if in.IPv6CIDR.IsValid() {
		blocks = append(blocks, in.IPv6CIDR)
	}
	v, err := t.addVPC(VPCInput{Prefixes: blocks, Tags: tags})
	if err != nil {
		return createVPCOut{}, invalidValue("%v", err)
	}
	v = v.clone()
	v.NoDNSHostnames = true
	t.c.state.vpcs.set(t, v.ID, v)
	return createVPCOut{t.wireVPC(v)}, nil
}

type vpcIn struct {
	ID string `ec2:"VpcId"`
}

// deleteVpc deletes a VPC with its default security group, its main route table and
// its default network ACL. It must not have anything else.
func (t *tx) deleteVpc(in vpcIn) (wireReturn, error) {
	v := t.c.state.vpcs.found(t, in.ID)
	if v == nil {
		return wireReturn{}, kindVPC.unknown(in.ID)
	}
	s := &t.c.state
	used := slices.ContainsFunc(existing(s.subnets, t.now), func(n *Subnet) bool { return n.VPC == v.ID })
	for _, g := range s.groups.all(t.now) {
		used = used || g.VPC == v.ID && g.Name != "default"
	}
	for _, r := range s.routeTables.all(t.now) {
		used = used || r.VPC == v.ID && !r.Main
	}
	for _, a := range s.acls.all(t.now) {
		used = used || a.VPC == v.ID && !a.Default
	}
	if used {
		return wireReturn{}, errorf("DependencyViolation", "The vpc '%s' has dependencies and cannot be deleted.", v.ID)
	}
	for _, g := range s.groups.all(t.now) {
		if g.VPC == v.ID {
			s.groups.set(t, g.ID, nil)
		}
	}
	for _, r := range s.routeTables.all(t.now) {
		if r.VPC == v.ID {
			s.routeTables.set(t, r.ID, nil)
		}
	}
	for _, a := range s.acls.all(t.now) {
		if a.VPC == v.ID {
			s.acls.set(t, a.ID, nil)
		}
	}
	s.vpcs.set(t, v.ID, nil)
	return wireReturn{true}, nil
}

type associateBlockIn struct {
	VPC      string       `ec2:"VpcId"`
	CIDR     netip.Prefix `ec2:"CidrBlock"`
	IPv6     bool         `ec2:"AmazonProvidedIpv6CidrBlock"`
	IPv6CIDR netip.Prefix `ec2:"Ipv6CidrBlock"`
	Border   ignored      `ec2:"Ipv6CidrBlockNetworkBorderGroup"`
	Pool     ignored      `ec2:"Ipv6Pool"`
}

type associateBlockOut struct {
	IPv4 *wireCIDRVPC        `xml:"cidrBlockAssociation"`
	IPv6 *wireIPv6CIDRSubnet `xml:"ipv6CidrBlockAssociation"`
	VPC  string              `xml:"vpcId"`
}

func (t *tx) associateVpcCidrBlock(in associateBlockIn) (associateBlockOut, error) {
	none := associateBlockOut{}
	if t.c.state.vpcs.found(t, in.VPC) == nil {
		return none, kindVPC.unknown(in.VPC)
	}
	p := in.CIDR
	switch {
	case in.IPv6CIDR.IsValid():
		p = in.IPv6CIDR
	case in.IPv6:
		p = t.newIPv6Block()
	default:
		if err := checkVPCBlock(p); err != nil {
			return none, err
		}
	}
	if err := t.addVPCPrefix(in.VPC, p); err != nil {
		return none, errorf("InvalidVpc.Range", "The CIDR '%s' is invalid.", p)
	}
	id := t.c.state.vpcs.found(t, in.VPC).associationID(p)
	if p.Addr().Is4() {
		return associateBlockOut{IPv4: &wireCIDRVPC{id, p.String(), "associating"}, VPC: in.VPC}, nil
	}
	return associateBlockOut{IPv6: &wireIPv6CIDRSubnet{id, p.String(), "associating"}, VPC: in.VPC}, nil
}

type disassociateBlockIn struct {
	ID string `ec2:"AssociationId"`
}

func (t *tx) disassociateVpcCidrBlock(in disassociateBlockIn) (associateBlockOut, error) {
	none := associateBlockOut{}
	for _, v := range t.c.state.vpcs.all(t.now) {
		for _, p := range slices.Concat(v.Prefixes, v.IPv6) {
			if v.associationID(p) != in.ID {
				continue
			}
			if p == v.Prefixes[0] {
				return none, errorf("OperationNotPermitted", "The vpc CIDR block with association ID %s may not be disassociated. "+
					"It is the primary IPv4 CIDR block of the VPC", in.ID)
			}
			for _, s := range existing(t.c.state.subnets, t.now) {
				if s.VPC == v.ID && (p.Overlaps(s.Prefix) || p.Overlaps(s.IPv6)) {
					return none, errorf("DependencyViolation", "The vpc CIDR block with association ID %s has dependencies "+
						"and cannot be disassociated.", in.ID)
				}
			}
			next := v.clone()
			other := func(q netip.Prefix) bool { return q == p }
			next.Prefixes, next.IPv6 = slices.DeleteFunc(next.Prefixes, other), slices.DeleteFunc(next.IPv6, other)
			t.c.state.vpcs.set(t, v.ID, next)
			if p.Addr().Is4() {
				return associateBlockOut{IPv4: &wireCIDRVPC{in.ID, p.String(), "disassociating"}, VPC: v.ID}, nil
			}
			return associateBlockOut{IPv6: &wireIPv6CIDRSubnet{in.ID, p.String(), "disassociating"}, VPC: v.ID}, nil
		}
	}
	return none, kindVPCBlock.unknown(in.ID)
}

type createSubnetIn struct {
	VPC        string         `ec2:"VpcId"`
	CIDR       netip.Prefix   `ec2:"CidrBlock"`
	IPv6       netip.Prefix   `ec2:"Ipv6CidrBlock"`
	Zone       string         `ec2:"AvailabilityZone"`
	ZoneID     string         `ec2:"AvailabilityZoneId"`
	IPv6Native bool           `ec2:"Ipv6Native"`
	Tags       []tagSpecParam `ec2:"TagSpecification"`
}

type createSubnetOut struct {
	Subnet wireSubnet `xml:"subnet"`
}

func (t *tx) createSubnet(in createSubnetIn) (createSubnetOut, error) {
	none := createSubnetOut{}
	if t.c.state.vpcs.found(t, in.VPC) == nil {
		return none, kindVPC.unknown(in.VPC)
	}
	zone := in.Zone
	if zone == "" {
		zone = in.ZoneID
	}
	tags, err := tagsFor("subnet", in.Tags)
	switch {
	case err != nil:
		return none, err
	case in.Zone != "" && in.ZoneID != "":
		return none, errorf("InvalidParameterCombination", "Only one of AvailabilityZone and AvailabilityZoneId may be specified")
	case in.IPv6Native == in.CIDR.IsValid():
		return none, errorf("MissingParameter", "Either 'cidrBlock' or 'ipv6Native' must be provided.")
	}
	if _, ok := t.zoneNamed(zone); !ok {
		return none, invalidValue("Value (%s) for parameter availabilityZone is invalid. Subnets can currently only be created "+
			"in the following availability zones: %s.", zone, strings.Join(byID(t.zones()), ", "))
	}
	s, err := t.addSubnet(SubnetInput{VPC: in.VPC, Zone: zone, Prefix: in.CIDR, IPv6: in.IPv6, Tags: tags})
	var conflict *overlapError
	switch {
	case errors.As(err, &conflict):
		return none, errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", conflict.prefix)
	case err != nil:
		return none, errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", firstLine(append(prefixText(in.CIDR), prefixText(in.IPv6)...)))
	}
	return createSubnetOut{t.wireSubnet(s)}, nil
}

// overlapError means that a subnet overlaps another one.
type overlapError struct {
	prefix netip.Prefix
	other  string
}

func (e *overlapError) Error() string {
	return fmt.Sprintf("subnet prefix %v overlaps subnet %s", e.prefix, e.other)
}

type subnetIn struct {
	ID string `ec2:"SubnetId"`
}

func (t *tx) deleteSubnet(in subnetIn) (wireReturn, error) {
	s := t.c.state.subnets.found(t, in.ID)
	if s == nil {
		return wireReturn{}, kindSubnet.unknown(in.ID)
	}
	used := len(s.Occupied) > 0
	for _, e := range t.allENIs(t.now) {
		used = used || e.Subnet == s.ID
	}
	if used {
		return wireReturn{}, errorf("DependencyViolation", "The subnet '%s' has dependencies and cannot be deleted.", s.ID)
	}
	for _, r := range t.c.state.routeTables.all(t.now) {
		r = r.clone()
		r.Associations = slices.DeleteFunc(r.Associations, func(a RouteAssociation) bool { return a.Subnet == s.ID })
		t.c.state.routeTables.set(t, r.ID, r)
	}
	for _, a := range t.c.state.acls.all(t.now) {
		a = a.clone()
		a.Associations = slices.DeleteFunc(a.Associations, func(as ACLAssociation) bool { return as.Subnet == s.ID })
		t.c.state.acls.set(t, a.ID, a)
	}
	t.c.state.subnets.set(t, s.ID, nil)
	return wireReturn{true}, nil
}
