// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni/instancetype"
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
	switch op := ni.Operator; {
	case op != nil && aws.ToBool(op.Managed):
		e.ManagedBy = cmp.Or(aws.ToString(op.Principal), "another service")
	case aws.ToBool(ni.RequesterManaged):
		e.ManagedBy = cmp.Or(aws.ToString(ni.RequesterId), "another service")
	}
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
	only := len(ni.Ipv6Addresses) == 1 && e.hasOwnIPv6()
	for _, a := range ni.Ipv6Addresses {
		if only || aws.ToBool(a.IsPrimaryIpv6) {
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

// hasOwnIPv6 reports whether one of the ENI's IPv6 addresses, if it has any, is its
// own, although EC2 marks none as primary.
func (e ENI) hasOwnIPv6() bool { return e.Primary || !e.Addr.IsValid() }

// withOwn returns the ENI with other own addresses. The present ones become
// secondary addresses.
func (e ENI) withOwn(own, own6 netip.Addr) ENI {
	if e.Addr == own && e.Addr6 == own6 {
		return e
	}
	e = e.clone()
	for _, a := range []netip.Addr{e.Addr, e.Addr6} {
		if a.IsValid() {
			e.addBlock(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, a := range []netip.Addr{own, own6} {
		if a.IsValid() {
			e.removeBlock(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	e.Addr, e.Addr6 = own, own6
	e.sortBlocks()
	return e
}

// hasAddr reports whether the ENI has an address, as its own or as a secondary one.
func (e ENI) hasAddr(a netip.Addr) bool {
	return a == e.Addr || a == e.Addr6 || slices.Contains(e.Addrs, a)
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
// the limits of trunk ENIs. It does not count the additional ENIs of types with flexible
// ENA queues, because those need a choice of queues that this package does not make.
func limitsOf(name string, info types.InstanceTypeInfo) instancetype.Limits {
	net := info.NetworkInfo
	l := instancetype.Limits{
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
	l.EFAKnown = net.EfaSupported != nil
	if net.EfaInfo != nil {
		l.EFAs = int(aws.ToInt32(net.EfaInfo.MaximumEfaInterfaces))
	}
	if info.VCpuInfo != nil {
		l.VCPUs = int(aws.ToInt32(info.VCpuInfo.DefaultVCpus))
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
