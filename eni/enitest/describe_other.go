// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

type describeSubnetsIn struct {
	query
	IDs []string `ec2:"SubnetId"`
}

type describeSubnetsOut struct {
	Subnets list[wireSubnet] `xml:"subnetSet"`
	Next    string           `xml:"nextToken,omitempty"`
}

func (t *tx) describeSubnets(in describeSubnetsIn) (describeSubnetsOut, error) {
	r := resource[*Subnet]{
		kind: kindSubnet, idsParam: "subnetSet",
		id:   func(s *Subnet) string { return s.ID },
		tags: func(s *Subnet) map[string]string { return s.Tags },
		filters: map[string]func(*Subnet) []string{
			"availability-zone":          func(s *Subnet) []string { return []string{s.Zone} },
			"availability-zone-id":       func(s *Subnet) []string { return []string{t.zoneID(s.Zone)} },
			"available-ip-address-count": func(s *Subnet) []string { return []string{strconv.Itoa(s.Free)} },
			"cidr-block":                 func(s *Subnet) []string { return prefixText(s.Prefix) },
			"ipv6-native":                func(s *Subnet) []string { return []string{strconv.FormatBool(!s.Prefix.IsValid())} },
			"default-for-az":             func(*Subnet) []string { return []string{"false"} },
			"map-public-ip-on-launch":    func(s *Subnet) []string { return []string{strconv.FormatBool(s.MapPublic)} },
			"owner-id":                   func(*Subnet) []string { return []string{t.c.cfg.Account} },
			"state":                      func(*Subnet) []string { return []string{"available"} },
			"subnet-id":                  func(s *Subnet) []string { return []string{s.ID} },
			"vpc-id":                     func(s *Subnet) []string { return []string{s.VPC} },
			"ipv6-cidr-block-association.ipv6-cidr-block": func(s *Subnet) []string { return prefixText(s.IPv6) },

			"customer-owned-ipv4-pool":        none[*Subnet],
			"enable-dns64":                    func(s *Subnet) []string { return []string{strconv.FormatBool(s.DNS64)} },
			"enable-lni-at-device-index":      none[*Subnet],
			"map-customer-owned-ip-on-launch": constant[*Subnet]("false"),
			"outpost-arn":                     none[*Subnet],
			"subnet-arn":                      func(s *Subnet) []string { return []string{t.arn("subnet", s.ID)} },
			"ipv6-cidr-block-association.association-id": func(s *Subnet) []string {
				return associationIDs(ipv6Blocks(s.ID, prefixText(s.IPv6)))
			},
			"ipv6-cidr-block-association.state": func(s *Subnet) []string {
				if !s.IPv6.IsValid() {
					return nil
				}
				return []string{"associated"}
			},
			"private-dns-name-options-on-launch.enable-resource-name-dns-a-record": func(s *Subnet) []string {
				return []string{strconv.FormatBool(s.RecordA)}
			},
			"private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": func(s *Subnet) []string {
				return []string{strconv.FormatBool(s.RecordAAAA)}
			},
			"private-dns-name-options-on-launch.hostname-type": func(s *Subnet) []string {
				return []string{cmp.Or(s.HostnameType, "ip-name")}
			},
		},
	}
	page, next, err := r.find(existing(t.c.state.subnets, t.view), in.IDs, in.query)
	if err != nil {
		return describeSubnetsOut{}, err
	}
	return describeSubnetsOut{listOf(page, t.wireSubnet), next}, nil
}

func (t *tx) wireSubnet(s *Subnet) wireSubnet {
	return wireSubnet{
		ID: s.ID, ARN: t.arn("subnet", s.ID),
		State: "available", OwnerID: t.c.cfg.Account, VPCID: s.VPC, CIDRBlock: firstLine(prefixText(s.Prefix)),
		IPv6Native: !s.Prefix.IsValid(),
		IPv6:       ipv6Blocks(s.ID, prefixText(s.IPv6)),
		Available:  s.Free, AvailabilityZone: s.Zone, AvailabilityZoneID: t.zoneID(s.Zone),
		MapPublic: s.MapPublic, AssignIPv6: s.AssignIPv6, DNS64: s.DNS64, Tags: wireTags(s.Tags),
		DNSOptions: wireDNSOptions{cmp.Or(s.HostnameType, "ip-name"), s.RecordA, s.RecordAAAA},
	}
}

func prefixText(p netip.Prefix) []string {
	if !p.IsValid() {
		return nil
	}
	return []string{p.String()}
}

// ipv6Blocks returns the associations of IPv6 blocks with a VPC or subnet. Their
// IDs derive from the ID of the owner.
func ipv6Blocks(owner string, blocks []string) list[wireIPv6CIDRSubnet] {
	kind, digits, _ := strings.Cut(owner, "-")
	return listOf(blocks, func(b string) wireIPv6CIDRSubnet {
		return wireIPv6CIDRSubnet{kind + "-cidr-assoc-" + digits, b, "associated"}
	})
}

func associationIDs(blocks list[wireIPv6CIDRSubnet]) []string {
	var ids []string
	for _, b := range blocks.Items {
		ids = append(ids, b.AssociationID)
	}
	return ids
}

type describeVPCsIn struct {
	query
	IDs []string `ec2:"VpcId"`
}

type describeVPCsOut struct {
	VPCs list[wireVPC] `xml:"vpcSet"`
	Next string        `xml:"nextToken,omitempty"`
}

func (t *tx) describeVpcs(in describeVPCsIn) (describeVPCsOut, error) {
	r := resource[*VPC]{
		kind: kindVPC, idsParam: "vpcSet",
		id:   func(v *VPC) string { return v.ID },
		tags: func(v *VPC) map[string]string { return v.Tags },
		filters: map[string]func(*VPC) []string{
			"cidr":                              func(v *VPC) []string { return []string{v.Prefixes[0].String()} },
			"cidr-block-association.cidr-block": func(v *VPC) []string { return texts(v.Prefixes) },
			"ipv6-cidr-block-association.ipv6-cidr-block": func(v *VPC) []string { return texts(v.IPv6) },
			"cidr-block-association.association-id": func(v *VPC) []string {
				var ids []string
				for _, p := range v.Prefixes {
					ids = append(ids, v.associationID(p))
				}
				return ids
			},
			"cidr-block-association.state":               constant[*VPC]("associated"),
			"dhcp-options-id":                            func(v *VPC) []string { return []string{t.wireVPC(v).DHCPOptions} },
			"ipv6-cidr-block-association.association-id": func(v *VPC) []string { return associationIDs(t.wireVPC(v).IPv6) },
			"ipv6-cidr-block-association.ipv6-pool":      none[*VPC],
			"ipv6-cidr-block-association.state": func(v *VPC) []string {
				if len(v.IPv6) == 0 {
					return nil
				}
				return []string{"associated"}
			},
			"is-default": func(*VPC) []string { return []string{"false"} },
			"owner-id":   func(*VPC) []string { return []string{t.c.cfg.Account} },
			"state":      func(*VPC) []string { return []string{"available"} },
			"vpc-id":     func(v *VPC) []string { return []string{v.ID} },
		},
	}
	page, next, err := r.find(t.c.state.vpcs.all(t.view), in.IDs, in.query)
	if err != nil {
		return describeVPCsOut{}, err
	}
	return describeVPCsOut{listOf(page, t.wireVPC), next}, nil
}

// byID returns the values of a map sorted by key.
func byID[T any](all map[string]T) []T {
	var values []T
	for _, id := range slices.Sorted(maps.Keys(all)) {
		values = append(values, all[id])
	}
	return values
}

type describeGroupsIn struct {
	query
	IDs   []string `ec2:"GroupId"`
	Names []string `ec2:"GroupName"`
}

type describeGroupsOut struct {
	Groups list[wireSecurityGroup] `xml:"securityGroupInfo"`
	Next   string                  `xml:"nextToken,omitempty"`
}

func (t *tx) describeSecurityGroups(in describeGroupsIn) (describeGroupsOut, error) {
	r := resource[*SecurityGroup]{
		kind: kindGroup, idsParam: "groupIds",
		id:   func(g *SecurityGroup) string { return g.ID },
		tags: func(g *SecurityGroup) map[string]string { return g.Tags },
		filters: map[string]func(*SecurityGroup) []string{
			"description": func(g *SecurityGroup) []string { return []string{g.Description} },
			"group-id":    func(g *SecurityGroup) []string { return []string{g.ID} },
			"group-name":  func(g *SecurityGroup) []string { return []string{g.Name} },
			"owner-id":    func(*SecurityGroup) []string { return []string{t.c.cfg.Account} },
			"vpc-id":      func(g *SecurityGroup) []string { return []string{g.VPC} },
		},
	}
	permissionFilters(r.filters, t, "ip-permission.", false)
	permissionFilters(r.filters, t, "egress.ip-permission.", true)
	if len(in.Names) > 0 {
		for _, name := range in.Names {
			if !slices.ContainsFunc(t.c.state.groups.all(t.view), func(g *SecurityGroup) bool { return g.Name == name }) {
				return describeGroupsOut{}, errorf(kindGroup.notFound, "The security group '%s' does not exist", name)
			}
		}
		in.Filters = append(in.Filters, filterParam{"group-name", in.Names})
	}
	page, next, err := r.find(t.c.state.groups.all(t.view), in.IDs, in.query)
	if err != nil {
		return describeGroupsOut{}, err
	}
	return describeGroupsOut{listOf(page, func(g *SecurityGroup) wireSecurityGroup {
		return wireSecurityGroup{
			g.ID, t.arn("security-group", g.ID), g.Name, g.Description, t.c.cfg.Account, g.VPC,
			t.wirePermissions(g, false), t.wirePermissions(g, true), wireTags(g.Tags),
		}
	}), next}, nil
}

type describeZonesIn struct {
	Filters []filterParam `ec2:"Filter"`
	Names   []string      `ec2:"ZoneName"`
	IDs     []string      `ec2:"ZoneId"`
	All     bool          `ec2:"AllAvailabilityZones"`
}

type describeZonesOut struct {
	Zones list[wireZone] `xml:"availabilityZoneInfo"`
}

// describeAvailabilityZones lists the zones of the region.
func (t *tx) describeAvailabilityZones(in describeZonesIn) (describeZonesOut, error) {
	region := []string{t.c.cfg.Region}
	r := resource[string]{
		kind: kind{notFound: "InvalidParameterValue", noun: "availability zone"},
		id:   func(z string) string { return z },
		filters: map[string]func(string) []string{
			"group-name":       func(string) []string { return region },
			"group-long-name":  none[string],
			"message":          none[string],
			"parent-zone-id":   none[string],
			"parent-zone-name": none[string],
			"opt-in-status":    func(string) []string { return []string{"opt-in-not-required"} },
			"region-name":      func(string) []string { return region },
			"state":            func(string) []string { return []string{"available"} },
			"zone-id":          func(z string) []string { return []string{t.zoneID(z)} },
			"zone-name":        func(z string) []string { return []string{z} },
			"zone-type":        func(string) []string { return []string{"availability-zone"} },
		},
	}
	if len(in.IDs) > 0 {
		in.Filters = append(in.Filters, filterParam{"zone-id", in.IDs})
	}
	found, _, err := r.find(byID(t.zones()), in.Names, query{Filters: in.Filters})
	if err != nil {
		return describeZonesOut{}, err
	}
	return describeZonesOut{listOf(found, func(z string) wireZone {
		return wireZone{z, t.zoneID(z), "available", t.c.cfg.Region, t.c.cfg.Region, "availability-zone",
			"opt-in-not-required", t.c.cfg.Region}
	})}, nil
}
