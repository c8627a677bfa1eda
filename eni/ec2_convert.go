// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// eniOf converts EC2's description of an ENI. It omits malformed values. EC2 has
// never been seen to send any, and the other values remain useful.
func eniOf(ni types.NetworkInterface) ENI {
	e := ENI{
		ID:          aws.ToString(ni.NetworkInterfaceId),
		MAC:         aws.ToString(ni.MacAddress),
		SubnetID:    aws.ToString(ni.SubnetId),
		VPCID:       aws.ToString(ni.VpcId),
		Zone:        aws.ToString(ni.AvailabilityZone),
		Kind:        Kind(ni.InterfaceType),
		Description: aws.ToString(ni.Description),
		Status:      string(ni.Status),
		Tags:        make(map[string]string, len(ni.TagSet)),
		Sources:     SourceEC2,
	}
	for _, t := range ni.TagSet {
		e.Tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	for _, g := range ni.Groups {
		e.Groups = append(e.Groups, aws.ToString(g.GroupId))
	}
	slices.Sort(e.Groups)
	if a := ni.Attachment; a != nil && a.Status != types.AttachmentStatusDetached {
		e.Attachment = aws.ToString(a.AttachmentId)
		e.Instance = aws.ToString(a.InstanceId)
		e.Status = string(a.Status)
		e.Card = int(aws.ToInt32(a.NetworkCardIndex))
		e.Device = int(aws.ToInt32(a.DeviceIndex))
		e.DeleteOnTermination = aws.ToBool(a.DeleteOnTermination)
		e.Primary = e.Card == 0 && e.Device == 0
	}
	e.setAddresses(ni)
	return e
}

// setAddresses sets the addresses and prefixes from EC2's description.
func (e *ENI) setAddresses(ni types.NetworkInterface) {
	e.Addr, _ = netip.ParseAddr(aws.ToString(ni.PrivateIpAddress))
	for _, a := range ni.PrivateIpAddresses {
		if !aws.ToBool(a.Primary) {
			e.addBlock(parseBlock(aws.ToString(a.PrivateIpAddress)))
		}
	}
	for _, p := range ni.Ipv4Prefixes {
		e.addBlock(parseBlock(aws.ToString(p.Ipv4Prefix)))
	}
	for i, a := range ni.Ipv6Addresses {
		if i == 0 && (e.Primary || !e.Addr.IsValid()) || aws.ToBool(a.IsPrimaryIpv6) {
			e.Addr6, _ = netip.ParseAddr(aws.ToString(a.Ipv6Address))
			continue
		}
		e.addBlock(parseBlock(aws.ToString(a.Ipv6Address)))
	}
	for _, p := range ni.Ipv6Prefixes {
		e.addBlock(parseBlock(aws.ToString(p.Ipv6Prefix)))
	}
	e.sortBlocks()
}

// addBlock adds a single address to e.Addrs, or a prefix to e.Prefixes.
func (e *ENI) addBlock(b netip.Prefix) {
	switch {
	case !b.IsValid():
	case b.IsSingleIP():
		e.Addrs = append(e.Addrs, b.Addr())
	default:
		e.Prefixes = append(e.Prefixes, b)
	}
}

func (e *ENI) sortBlocks() {
	slices.SortFunc(e.Addrs, netip.Addr.Compare)
	slices.SortFunc(e.Prefixes, netip.Prefix.Compare)
	slices.SortFunc(e.Doubtful, netip.Prefix.Compare)
}

// parseBlock parses "10.0.0.1" or "10.0.0.16/28". It returns the zero Prefix for
// anything else.
func parseBlock(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}
	}
	return p.Masked()
}

// appendBlock appends a block to the list if it can be parsed.
func appendBlock(to []netip.Prefix, s *string) []netip.Prefix {
	if b := parseBlock(aws.ToString(s)); b.IsValid() {
		return append(to, b)
	}
	return to
}

func subnetOf(s types.Subnet) Subnet {
	out := Subnet{
		ID: aws.ToString(s.SubnetId), Zone: aws.ToString(s.AvailabilityZone), VPCID: aws.ToString(s.VpcId),
		Free: int(aws.ToInt32(s.AvailableIpAddressCount)), Tags: make(map[string]string, len(s.Tags)),
	}
	out.Prefix, _ = netip.ParsePrefix(aws.ToString(s.CidrBlock))
	for _, a := range s.Ipv6CidrBlockAssociationSet {
		associated := a.Ipv6CidrBlockState != nil && a.Ipv6CidrBlockState.State == types.SubnetCidrBlockStateCodeAssociated
		if p, err := netip.ParsePrefix(aws.ToString(a.Ipv6CidrBlock)); err == nil && associated {
			out.Prefix6 = p
		}
	}
	for _, t := range s.Tags {
		out.Tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return out
}

// limitsOf converts EC2's description of an instance type, which does not contain
// the limits of trunk ENIs.
func limitsOf(name string, info types.InstanceTypeInfo) Limits {
	net := info.NetworkInfo
	l := Limits{
		Type: name, DefaultCard: int(aws.ToInt32(net.DefaultNetworkCardIndex)),
		AddrsPerENI: int(aws.ToInt32(net.Ipv4AddressesPerInterface)), BareMetal: aws.ToBool(info.BareMetal), Source: "ec2",
	}
	l.Nitro = info.Hypervisor == types.InstanceTypeHypervisorNitro || l.BareMetal
	for _, card := range net.NetworkCards {
		n := int(aws.ToInt32(card.NetworkCardIndex))
		for len(l.Cards) <= n {
			l.Cards = append(l.Cards, 0)
		}
		l.Cards[n] = int(aws.ToInt32(card.MaximumNetworkInterfaces))
	}
	if len(l.Cards) == 0 {
		l.Cards = []int{int(aws.ToInt32(net.MaximumNetworkInterfaces))}
	}
	return l
}

func tagsOf(tags map[string]string) []types.Tag {
	out := make([]types.Tag, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, types.Tag{Key: aws.String(k), Value: aws.String(tags[k])})
	}
	return out
}

// count returns nil for 0, because EC2 rejects a count of 0.
func count(n int) *int32 {
	if n == 0 {
		return nil
	}
	return aws.Int32(int32(n))
}
