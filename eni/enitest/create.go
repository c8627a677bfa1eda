// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// maxGroups is the default quota of security groups of one ENI.
const maxGroups = 5

// eniSpec describes an ENI to create.
type eniSpec struct {
	subnet, description, kind string
	operator                  string
	groups                    []string
	// addr is the primary private IP. The zero Addr means that EC2 chooses.
	addr netip.Addr
	// noIPv4 means that the ENI has no primary private IP: EFA-only ENIs have none,
	// and neither do the ENIs of a subnet without IPv4.
	noIPv4            bool
	v4Addrs, v4Blocks selection
	v6Addrs, v6Blocks selection
	public            bool
	primaryIPv6       bool
	// launching means that the ENI is for a new instance.
	launching bool
	tags      map[string]string
	tracking  *ConnectionTracking
}

// create creates an ENI that is not attached.
func (t *tx) create(s eniSpec) (*ENI, error) {
	subnet := t.c.state.subnets.found(t, s.subnet)
	if subnet == nil {
		return nil, kindSubnet.unknown(s.subnet)
	}
	groups, err := t.groupsFor(s.groups, subnet.VPC)
	if err != nil {
		return nil, err
	}
	e := &ENI{
		VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone, SubnetPrefix: subnet.Prefix, SubnetIPv6: subnet.IPv6,
		Description: s.description, Type: s.kind, Groups: groups, SourceDestCheck: true, Requester: t.caller,
		Tags: maps.Clone(s.tags), Tracking: s.tracking, PrimaryIPv6: s.primaryIPv6, Operator: s.operator,
	}
	if subnet.AssignIPv6 && s.v6Addrs.size()+s.v6Blocks.size() == 0 && s.kind != "efa-only" {
		s.v6Addrs.n = 1
	}
	if !subnet.Prefix.IsValid() {
		s.noIPv4 = true
		if s.v6Addrs.size() == 0 && s.kind != "efa-only" {
			s.v6Addrs.n = 1
		}
	}
	if err := t.assignAddrs(e, s); err != nil {
		return nil, err
	}
	e.ID, e.MAC = t.newID(kindENI.prefix), t.newMAC()
	if s.public && e.Addr.IsValid() {
		e.Public = t.newPublic()
	}
	t.put(e)
	return e, nil
}

// assignAddrs assigns the addresses of s to the new ENI, all or none.
func (t *tx) assignAddrs(e *ENI, s eniSpec) error {
	l := slotUse{v4: s.v4Addrs.size() + s.v4Blocks.size(), v6: s.v6Addrs.size() + s.v6Blocks.size()}
	switch {
	case s.kind == "efa-only" && (s.addr.IsValid() || l != (slotUse{})):
		return errorf("InvalidParameterCombination", "A network interface of type %s has no IP addresses", s.kind)
	case s.noIPv4 && (s.addr.IsValid() || l.v4 > 0):
		return invalidValue("The specified subnet %s does not have an associated IPv4 CIDR block.", e.Subnet)
	}
	if !s.noIPv4 {
		l.v4++
	}
	if err := l.check(t.limitsFor(e)); err != nil {
		return err
	}
	g := t.assigner(e.Subnet)
	g.launching = s.launching
	if !s.noIPv4 {
		primary := selection{n: 1}
		if s.addr.IsValid() {
			primary = selection{exact: []netip.Prefix{single(s.addr)}}
		}
		for _, p := range g.addrs(primary) {
			e.Addr = p.Addr()
		}
		e.Addrs = addrsOf(g.addrs(s.v4Addrs))
		e.Prefixes = g.blocks(s.v4Blocks)
	}
	e.IPv6Addrs = addrsOf(g.addrs6(s.v6Addrs))
	e.IPv6Prefixes = g.blocks6(s.v6Blocks)
	return g.close()
}

// groupsFor checks the security groups and returns them. Without any it returns
// the default group of the VPC.
func (t *tx) groupsFor(ids []string, vpc string) ([]string, error) {
	if len(ids) == 0 {
		for _, g := range t.c.state.groups.all(t.now) {
			if g.VPC == vpc && g.Name == "default" {
				return []string{g.ID}, nil
			}
		}
	}
	if len(ids) > maxGroups {
		return nil, errorf("SecurityGroupsPerInterfaceLimitExceeded",
			"The maximum number of security groups per interface has been reached.")
	}
	for _, id := range ids {
		g := t.c.state.groups.found(t, id)
		if g == nil {
			return nil, kindENIGroup.unknown(id)
		}
		if g.VPC != vpc {
			return nil, errorf("InvalidParameter", "Security group %s and VPC %s belong to different networks.", id, vpc)
		}
	}
	return slices.Clone(ids), nil
}

// owned returns every address and prefix of the ENI.
func (e *ENI) owned() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range slices.Concat(e.v4(), e.IPv6Addrs) {
		all = append(all, single(a))
	}
	return slices.Concat(all, e.Prefixes, e.IPv6Prefixes)
}

func addrsOf(prefixes []netip.Prefix) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

type trackingParam struct {
	TCPEstablished int `ec2:"TcpEstablishedTimeout"`
	UDPStream      int `ec2:"UdpStreamTimeout"`
	UDP            int `ec2:"UdpTimeout"`
}

func (p *trackingParam) value() *ConnectionTracking {
	if p == nil {
		return nil
	}
	return &ConnectionTracking{p.TCPEstablished, p.UDPStream, p.UDP}
}

type privateAddrParam struct {
	Addr    netip.Addr `ec2:"PrivateIpAddress"`
	Primary bool       `ec2:"Primary"`
}

type ipv6AddrParam struct {
	Addr netip.Addr `ec2:"Ipv6Address"`
}

type ipv4PrefixParam struct {
	Prefix netip.Prefix `ec2:"Ipv4Prefix"`
}

type ipv6PrefixParam struct {
	Prefix netip.Prefix `ec2:"Ipv6Prefix"`
}

// addressParams are the addresses of a new ENI, in the parameters of
// CreateNetworkInterface and RunInstances.
type addressParams struct {
	Addr        netip.Addr         `ec2:"PrivateIpAddress"`
	Addrs       []privateAddrParam `ec2:"PrivateIpAddresses"`
	AddrCount   int                `ec2:"SecondaryPrivateIpAddressCount"`
	Prefixes    []ipv4PrefixParam  `ec2:"Ipv4Prefix"`
	PrefixCount int                `ec2:"Ipv4PrefixCount"`
	IPv6        []ipv6AddrParam    `ec2:"Ipv6Addresses"`
	IPv6Count   int                `ec2:"Ipv6AddressCount"`
	IPv6Prefix  []ipv6PrefixParam  `ec2:"Ipv6Prefix"`
	IPv6PCount  int                `ec2:"Ipv6PrefixCount"`
}

// setAddrs sets the addresses of s.
func (p addressParams) setAddrs(s *eniSpec) error {
	s.addr = p.Addr
	s.v4Addrs.n, s.v4Blocks.n, s.v6Addrs.n, s.v6Blocks.n = p.AddrCount, p.PrefixCount, p.IPv6Count, p.IPv6PCount
	for _, a := range p.Addrs {
		if !a.Primary {
			s.v4Addrs.exact = append(s.v4Addrs.exact, single(a.Addr))
			continue
		}
		if s.addr.IsValid() {
			return invalidValue("Only one primary private IP address can be specified.")
		}
		s.addr = a.Addr
	}
	for _, b := range p.Prefixes {
		s.v4Blocks.exact = append(s.v4Blocks.exact, b.Prefix)
	}
	for _, a := range p.IPv6 {
		s.v6Addrs.exact = append(s.v6Addrs.exact, single(a.Addr))
	}
	for _, b := range p.IPv6Prefix {
		s.v6Blocks.exact = append(s.v6Blocks.exact, b.Prefix)
	}
	for _, w := range []selection{s.v4Addrs, s.v4Blocks, s.v6Addrs, s.v6Blocks} {
		if w.n > 0 && len(w.exact) > 0 || w.n < 0 {
			return errorf("InvalidParameterCombination", "Either a number of addresses or the addresses may be given, not both.")
		}
	}
	return nil
}

type createENIIn struct {
	addressParams
	Subnet      string         `ec2:"SubnetId"`
	Description string         `ec2:"Description"`
	Groups      []string       `ec2:"SecurityGroupId"`
	Type        string         `ec2:"InterfaceType"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
	Tracking    *trackingParam `ec2:"ConnectionTrackingSpecification"`
	PrimaryIPv6 bool           `ec2:"EnablePrimaryIpv6"`
	Operator    ignored        `ec2:"Operator"`
	ClientToken string         `ec2:"ClientToken"`
}

type createENIOut struct {
	ENI         wireNetworkInterface `xml:"networkInterface"`
	ClientToken string               `xml:"clientToken,omitempty"`
}

// creatable are the interface types that CreateNetworkInterface accepts.
var creatable = []string{"interface", "branch", "trunk", "efa", "efa-only"}

func (t *tx) createNetworkInterface(in createENIIn) (createENIOut, error) {
	var none createENIOut
	if in.Subnet == "" {
		return none, missing("subnetId")
	}
	tags, err := tagsFor("network-interface", in.Tags)
	if err != nil {
		return none, err
	}
	s := eniSpec{
		subnet: in.Subnet, description: in.Description, groups: in.Groups, kind: in.Type, tags: tags,
		noIPv4: in.Type == "efa-only", tracking: in.Tracking.value(), primaryIPv6: in.PrimaryIPv6,
	}
	if s.kind == "" {
		s.kind = "interface"
	}
	if !slices.Contains(creatable, s.kind) {
		return none, invalidValue("Value (%s) for parameter InterfaceType is invalid. Expected one of: %s",
			s.kind, strings.Join(creatable, ", "))
	}
	if err := in.setAddrs(&s); err != nil {
		return none, err
	}
	e, err := t.create(s)
	if err != nil {
		return none, err
	}
	w := t.wireInterface(e, t.now)
	w.Status = "pending"
	return createENIOut{w, in.ClientToken}, nil
}

type eniIn struct {
	ID string `ec2:"NetworkInterfaceId"`
}

func (t *tx) deleteNetworkInterface(in eniIn) (wireReturn, error) {
	if in.ID == "" {
		return wireReturn{}, missing("networkInterfaceId")
	}
	e, err := t.findENI(in.ID)
	if err != nil {
		return wireReturn{}, err
	}
	if e.Attachment != nil || e.Trunk != nil || len(t.branches(e.ID)) > 0 {
		return wireReturn{}, invalidValue("Network interface '%s' is currently in use.", e.ID)
	}
	t.free(t.now, e)
	return wireReturn{true}, nil
}

// mutableENI returns the ENI that a mutating call names, or EC2's error if the
// call does not find it.
func (t *tx) mutableENI(id string) (*ENI, error) {
	if id == "" {
		return nil, missing("networkInterfaceId")
	}
	e, err := t.findENI(id)
	if err != nil {
		return nil, err
	}
	return e, e.checkOwn()
}

// findENI returns the ENI that a mutating call names, even if a service owns it.
func (t *tx) findENI(id string) (*ENI, error) {
	e := t.c.state.enis.found(t, id).viewAt(t.now)
	if e == nil {
		return nil, kindENI.unknown(id)
	}
	return e, nil
}
