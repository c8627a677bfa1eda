// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// VPCInput describes a VPC to add.
type VPCInput struct {
	// Prefixes are its IPv4 and IPv6 blocks. Without an IPv4 block it gets
	// 10.0.0.0/16.
	Prefixes []netip.Prefix
	Tags     map[string]string
}

// SubnetInput describes a subnet to add.
type SubnetInput struct {
	VPC string
	// Zone is the name or the ID of the availability zone. Empty means the first of
	// the region.
	Zone string
	// Prefix must be between /16 and /28, IPv6 must be a /64. One of them may be
	// the zero Prefix.
	Prefix, IPv6 netip.Prefix
	// MapPublic gives a public address to the primary ENI of new instances.
	MapPublic bool
	Tags      map[string]string
}

// InstanceInput describes an instance to run.
type InstanceInput struct {
	Subnet string
	// Type is the instance type; empty means m5.large.
	Type string
	// Groups are the security groups of the primary ENI; none means the default
	// group of the VPC.
	Groups []string
	// Addr is the primary private IP. The zero Addr means that EC2 chooses.
	Addr netip.Addr
	// IPv6Addrs is the number of IPv6 addresses of the primary ENI.
	IPv6Addrs int
	// Tags are the tags of the instance.
	Tags map[string]string
	// Image is the ID of the image. Empty means a made-up one.
	Image string
	// UserData is the text that metadata shows as user-data; empty means none.
	UserData string
	// MetadataTags makes metadata show the tags of the instance.
	MetadataTags bool
	// Operator is the service that manages the instance and its primary ENI, such as
	// eks.amazonaws.com for EKS Auto Mode. Empty means none.
	Operator string
}

// AddVPC adds a VPC with its default security group.
func (c *Cloud) AddVPC(in VPCInput) (VPC, error) {
	t := c.begin()
	defer t.end()
	v, err := t.addVPC(in)
	if err != nil {
		return VPC{}, err
	}
	return *v.clone(), nil
}

func (t *tx) addVPC(in VPCInput) (*VPC, error) {
	v := &VPC{ID: t.newID("vpc-"), Tags: maps.Clone(in.Tags)}
	for _, p := range in.Prefixes {
		if p != p.Masked() {
			return nil, fmt.Errorf("VPC prefix %v has host bits set", p)
		}
		if p.Addr().Is4() {
			v.Prefixes = append(v.Prefixes, p)
		} else {
			v.IPv6 = append(v.IPv6, p)
		}
	}
	if len(v.Prefixes) == 0 {
		v.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	}
	t.c.state.vpcs.set(t, v.ID, v)
	t.addGroup(v.ID, "default", "default VPC security group", nil)
	t.addMainTable(v)
	t.addDefaultACL(v)
	return v, nil
}

// AddVPCPrefix associates another CIDR block with a VPC.
func (c *Cloud) AddVPCPrefix(vpc string, p netip.Prefix) error {
	t := c.begin()
	err := t.addVPCPrefix(vpc, p)
	t.end()
	c.networkChanged("AssociateVpcCidrBlock")
	c.deliver()
	return err
}

func (t *tx) addVPCPrefix(vpc string, p netip.Prefix) error {
	v := t.c.state.vpcs.at(vpc, t.now)
	switch {
	case v == nil:
		return kindVPC.unknown(vpc)
	case p != p.Masked():
		return fmt.Errorf("VPC prefix %v has host bits set", p)
	case slices.ContainsFunc(slices.Concat(v.Prefixes, v.IPv6), p.Overlaps):
		return fmt.Errorf("VPC prefix %v overlaps one of %s", p, vpc)
	}
	next := v.clone()
	if p.Addr().Is4() {
		next.Prefixes = append(next.Prefixes, p)
	} else {
		next.IPv6 = append(next.IPv6, p)
		t.allowIPv6(vpc)
	}
	t.c.state.vpcs.set(t, vpc, next)
	return nil
}

// AddSubnet adds a subnet to a VPC.
func (c *Cloud) AddSubnet(in SubnetInput) (Subnet, error) {
	t := c.begin()
	defer t.end()
	s, err := t.addSubnet(in)
	if err != nil {
		return Subnet{}, err
	}
	return *s.clone(), nil
}

func (t *tx) addSubnet(in SubnetInput) (*Subnet, error) {
	v := t.c.state.vpcs.found(t, in.VPC)
	if v == nil {
		return nil, kindVPC.unknown(in.VPC)
	}
	if err := t.checkSubnet(v, in); err != nil {
		return nil, err
	}
	zone, ok := t.zoneNamed(in.Zone)
	if !ok {
		return nil, fmt.Errorf("zone %q is not in region %s", in.Zone, t.c.cfg.Region)
	}
	s := &Subnet{
		ID: t.newID("subnet-"), VPC: v.ID, Zone: zone,
		Prefix: in.Prefix, IPv6: in.IPv6, MapPublic: in.MapPublic, Tags: maps.Clone(in.Tags),
	}
	t.c.state.spaces[s.ID] = newSpace(in.Prefix, in.IPv6)
	s.Free = t.c.state.spaces[s.ID].v4.free
	t.putSubnet(s)
	t.associateDefaultACL(s)
	return s, nil
}

func (t *tx) checkSubnet(v *VPC, in SubnetInput) error {
	v4 := in.Prefix.IsValid()
	switch {
	case !v4 && !in.IPv6.IsValid():
		return errors.New("a subnet needs an IPv4 or an IPv6 prefix")
	case v4 && (!in.Prefix.Addr().Is4() || in.Prefix != in.Prefix.Masked()):
		return fmt.Errorf("subnet prefix %v is not an IPv4 prefix without host bits", in.Prefix)
	case v4 && (in.Prefix.Bits() < 16 || in.Prefix.Bits() > 28):
		return fmt.Errorf("subnet prefix %v is not between /16 and /28", in.Prefix)
	case v4 && !within(v.Prefixes, in.Prefix):
		return fmt.Errorf("subnet prefix %v is not within the VPC's %v", in.Prefix, v.Prefixes)
	case in.IPv6.IsValid() && (in.IPv6.Bits() != 64 || in.IPv6 != in.IPv6.Masked()):
		return fmt.Errorf("IPv6 subnet prefix %v is not a /64 without host bits", in.IPv6)
	case in.IPv6.IsValid() && !within(v.IPv6, in.IPv6):
		return fmt.Errorf("IPv6 subnet prefix %v is not within the VPC's %v", in.IPv6, v.IPv6)
	}
	for _, s := range existing(t.c.state.subnets, t.now) {
		if s.VPC == v.ID && (s.Prefix.Overlaps(in.Prefix) || in.IPv6.IsValid() && s.IPv6.Overlaps(in.IPv6)) {
			return &overlapError{in.Prefix, s.ID}
		}
	}
	return nil
}

func within(outer []netip.Prefix, inner netip.Prefix) bool {
	return slices.ContainsFunc(outer, func(p netip.Prefix) bool {
		return p.Bits() <= inner.Bits() && p.Contains(inner.Addr())
	})
}

// AddSecurityGroup adds a security group to a VPC.
func (c *Cloud) AddSecurityGroup(vpc, name string, tags map[string]string) (SecurityGroup, error) {
	t := c.begin()
	defer t.end()
	if c.state.vpcs.at(vpc, t.now) == nil {
		return SecurityGroup{}, kindVPC.unknown(vpc)
	}
	return *t.addGroup(vpc, name, name, tags).clone(), nil
}

// AddGroupRules adds rules to a security group, as the actions
// AuthorizeSecurityGroupIngress and AuthorizeSecurityGroupEgress do. It gives them new
// IDs.
func (c *Cloud) AddGroupRules(group string, rules ...GroupRule) error {
	t := c.begin()
	g, err := t.group(group, "")
	if err == nil {
		g = g.clone()
		for _, r := range rules {
			r.ID, r.Tags = t.newID(kindRule.prefix), maps.Clone(r.Tags)
			g.Rules = append(g.Rules, r)
		}
		t.c.state.groups.set(t, g.ID, g)
	}
	t.end()
	if err != nil {
		return err
	}
	c.networkChanged("AuthorizeSecurityGroupIngress")
	c.deliver()
	return nil
}

func (t *tx) addGroup(vpc, name, description string, tags map[string]string) *SecurityGroup {
	g := &SecurityGroup{ID: t.newID("sg-"), VPC: vpc, Name: name, Description: description, Tags: maps.Clone(tags)}
	v := t.c.state.vpcs.at(vpc, t.now)
	g.Rules = g.defaultRules(v != nil && len(v.IPv6) > 0)
	t.c.state.groups.set(t, g.ID, g)
	return g
}

// AddTags adds tags to a resource, as the action CreateTags does.
func (c *Cloud) AddTags(id string, tags map[string]string) error {
	t := c.begin()
	defer t.end()
	return t.retag(id, func(have map[string]string) { maps.Copy(have, tags) })
}

// Occupy takes addresses of a subnet without an ENI that the API shows, in place
// of the load balancers and VPC endpoints of a real subnet. It can fill or fragment
// a subnet.
func (c *Cloud) Occupy(subnet string, addrs ...netip.Addr) error {
	t := c.begin()
	defer t.end()
	s := t.subnet(subnet)
	if s == nil {
		return kindSubnet.unknown(subnet)
	}
	space := c.state.spaces[subnet]
	s = s.clone()
	for _, a := range addrs {
		if p := single(a); !space.contains(p) || space.busy(p) {
			return fmt.Errorf("occupy %v in %v: not a free address of the subnet", a, s.Prefix)
		}
		space.take(single(a))
		s.Occupied = append(s.Occupied, a)
	}
	s.Free = space.v4.free
	t.putSubnet(s)
	return nil
}

// Vacate releases addresses taken with Occupy.
func (c *Cloud) Vacate(subnet string, addrs ...netip.Addr) error {
	t := c.begin()
	defer t.end()
	s := t.subnet(subnet)
	if s == nil {
		return kindSubnet.unknown(subnet)
	}
	s = s.clone()
	for _, a := range addrs {
		i := slices.Index(s.Occupied, a)
		if i < 0 {
			return fmt.Errorf("vacate %v: not occupied", a)
		}
		s.Occupied = slices.Delete(s.Occupied, i, i+1)
		c.state.spaces[subnet].release(single(a))
	}
	s.Free = c.state.spaces[subnet].v4.free
	t.putSubnet(s)
	return nil
}

// RunInstance runs an instance with its primary ENI, which is deleted with it.
func (c *Cloud) RunInstance(in InstanceInput) (Instance, error) {
	t := c.begin()
	i, err := t.run(launch{
		kind: cmp.Or(in.Type, "m5.large"), tags: in.Tags, operator: in.Operator, reservation: t.newID("r-"),
		image: cmp.Or(in.Image, "ami-0e71e57aa01de5a00"), userData: in.UserData, metadataTags: in.MetadataTags,
		enis: []launchENI{{spec: eniSpec{
			subnet: in.Subnet, groups: in.Groups, addr: in.Addr, v6Addrs: selection{n: in.IPv6Addrs}, operator: in.Operator,
		}, deleteOnTermination: true, primary: true}},
	})
	t.end()
	if err != nil {
		return Instance{}, err
	}
	c.deliver()
	return *i.clone(), nil
}

// AllowMetadataV1 allows requests for the metadata of the instance without a
// session token, as HttpTokens=optional does.
func (c *Cloud) AllowMetadataV1(instance string) error {
	t := c.begin()
	defer t.end()
	i := t.instance(instance)
	if i == nil {
		return kindInstance.unknown(instance)
	}
	i = i.clone()
	i.MetadataV1 = true
	t.putInstance(i)
	return nil
}

// newID returns an ID with the given prefix. The IDs look random and are the same
// in each run.
func (t *tx) newID(prefix string) string {
	t.c.state.serial++
	return fmt.Sprintf("%s0%016x", prefix, scramble(t.c.state.serial))
}

// newMAC returns a MAC like EC2's: locally administered, unicast.
func (t *tx) newMAC() string {
	t.c.state.serial++
	n := t.c.state.serial
	// Multiplying by an odd factor permutes the 32-bit numbers.
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n)*0x9e3779b1)
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", byte(n>>32), b[0], b[1], b[2], b[3])
}

// newPublic returns a public address, out of the block reserved for benchmarks
// (RFC 2544), which is not routed in the internet.
func (t *tx) newPublic() netip.Addr {
	t.c.state.serial++
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 198<<24|18<<16|uint32(t.c.state.serial)&0x1ffff)
	return netip.AddrFrom4(b)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
