// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// TestPages pages through ENIs and deletes an ENI of each page on the way.
func TestPages(t *testing.T) {
	w := newWorld(t, setup{})
	for range 16 {
		w.create(t)
	}
	pages := ec2.NewDescribeNetworkInterfacesPaginator(w.ec2, &ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(5)})
	var sizes []int
	seen := map[string]bool{}
	for pages.HasMorePages() {
		page := must(pages.NextPage(t.Context()))(t)
		sizes = append(sizes, len(page.NetworkInterfaces))
		for _, e := range page.NetworkInterfaces {
			if seen[*e.NetworkInterfaceId] {
				t.Errorf("%s is on two pages", *e.NetworkInterfaceId)
			}
			seen[*e.NetworkInterfaceId] = true
		}
		// Deleting an ENI of this page must not shift the next page.
		if e := page.NetworkInterfaces[0]; e.Attachment == nil {
			must(w.ec2.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: e.NetworkInterfaceId}))(t)
		}
	}
	if diff := cmp.Diff([]int{5, 5, 5, 2}, sizes); diff != "" {
		t.Errorf("sizes of pages (-want +got):\n%s", diff)
	}
}

// TestFilters finds ENIs by filters on their properties and tags.
func TestFilters(t *testing.T) {
	s := newStage(t)
	ids := map[string]string{s.free: "free", s.second: "second", s.trunk: "trunk", s.branch: "branch", primaryOf(s.Cloud): "primary"}
	if err := s.AddTags(s.second, map[string]string{"app": "web/one", "team": "a*b"}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddTags(s.free, map[string]string{"app": "db"}); err != nil {
		t.Fatal(err)
	}
	second, _ := s.ENI(s.second)
	for _, tt := range []struct {
		filters []string // name, then values up to a "|"
		want    []string
	}{
		{[]string{"status", "available"}, []string{"free"}},
		{[]string{"status", "in-use", "available"}, []string{"branch", "free", "primary", "second", "trunk"}},
		{[]string{"attachment.instance-id", s.instance.ID}, []string{"primary", "second", "trunk"}},
		{[]string{"attachment.device-index", "1", "3"}, []string{"second", "trunk"}},
		{[]string{"attachment.device-index", "1", "|", "vpc-id", s.vpc.ID}, []string{"second"}},
		{[]string{"interface-type", "branch"}, []string{"branch"}},
		{[]string{"tag-key", "app"}, []string{"free", "second"}},
		{[]string{"tag:app", "web/*"}, []string{"second"}},
		{[]string{"tag:app", "*b*"}, []string{"free", "second"}},
		{[]string{"tag:app", "d?"}, []string{"free"}},
		{[]string{"tag:team", `a\*b`}, []string{"second"}},
		{[]string{"tag:app", "DB"}, nil},
		{[]string{"addresses.private-ip-address", "10.0.1.200"}, []string{"second"}},
		{[]string{"addresses.primary", "false"}, []string{"second"}},
		{[]string{"mac-address", second.MAC}, []string{"second"}},
		{[]string{"ipv6-addresses.ipv6-address", second.IPv6Addrs[0].String()}, []string{"second"}},
		{[]string{"group-name", "default", "|", "tag-key", "app", "|", "status", "available"}, []string{"free"}},
	} {
		var filters []types.Filter
		for part := range slices.Values(split(tt.filters)) {
			filters = append(filters, types.Filter{Name: &part[0], Values: part[1:]})
		}
		out := must(s.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{Filters: filters}))(t)
		var got []string
		for _, e := range out.NetworkInterfaces {
			got = append(got, ids[*e.NetworkInterfaceId])
		}
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.filters, diff)
		}
	}
}

func split(words []string) [][]string {
	parts := [][]string{nil}
	for _, w := range words {
		if w == "|" {
			parts = append(parts, nil)
			continue
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], w)
	}
	return parts
}

// TestInstanceTypePages lists all instance types, which takes several pages even
// if the caller names no page size.
func TestInstanceTypePages(t *testing.T) {
	w := newWorld(t, setup{})
	pages := ec2.NewDescribeInstanceTypesPaginator(w.ec2, &ec2.DescribeInstanceTypesInput{})
	n := 0
	for pages.HasMorePages() {
		n += len(must(pages.NextPage(t.Context()))(t).InstanceTypes)
	}
	want := 0
	for range instancetype.All() {
		want++
	}
	if n != want {
		t.Errorf("got %d instance types, want %d", n, want)
	}
}

// TestBranchLimit fills a trunk up to the limit of its type.
func TestBranchLimit(t *testing.T) {
	s := newStage(t)
	it, _ := s.InstanceType("m5.xlarge")
	for n := range int32(it.Branches - 1) {
		if err := s.associate(t.Context(), s.world.create(t), 100+n); err != nil {
			t.Fatal(err)
		}
	}
	err := s.associate(t.Context(), s.free, 99)
	wantCode(t, err, "BranchInterfaceLimitExceeded")
	all := must(s.ec2.DescribeTrunkInterfaceAssociations(t.Context(), &ec2.DescribeTrunkInterfaceAssociationsInput{
		Filters: []types.Filter{{Name: aws.String("trunk-interface-id"), Values: []string{s.trunk}}},
	}))(t)
	if len(all.InterfaceAssociations) != it.Branches {
		t.Errorf("got %d associations, want %d", len(all.InterfaceAssociations), it.Branches)
	}
}

// TestReservation checks that EC2 chooses no single address from a reservation,
// and chooses prefixes from a reservation for prefixes first.
func TestReservation(t *testing.T) {
	w := newWorld(t, setup{prefix: "10.0.1.0/26", ipv6: true})
	reserve := func(prefix string, kind types.SubnetCidrReservationType) {
		must(w.ec2.CreateSubnetCidrReservation(t.Context(), &ec2.CreateSubnetCidrReservationInput{
			SubnetId: &w.subnet.ID, Cidr: &prefix, ReservationType: kind,
		}))(t)
	}
	reserve("10.0.1.32/28", types.SubnetCidrReservationTypePrefix)
	reserve("10.0.1.0/29", types.SubnetCidrReservationTypeExplicit)
	reserve("2001:db8:1:2:7::/80", types.SubnetCidrReservationTypePrefix)
	id := w.create(t)
	out := must(w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(1),
	}))(t)
	e, _ := w.ENI(id)
	got := []string{e.Addr.String(), *out.AssignedPrivateIpAddresses[0].PrivateIpAddress}
	block := must(w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, Ipv4PrefixCount: aws.Int32(1),
	}))(t)
	got = append(got, *block.AssignedIpv4Prefixes[0].Ipv4Prefix)
	v6 := must(w.ec2.AssignIpv6Addresses(t.Context(), &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &id, Ipv6PrefixCount: aws.Int32(1)}))(t)
	got = append(got, v6.AssignedIpv6Prefixes[0])
	must(w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, PrivateIpAddresses: []string{"10.0.1.6"},
	}))(t)
	want := []string{"10.0.1.8", "10.0.1.9", "10.0.1.32/28", "2001:db8:1:2:7::/80"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("choices (-want +got):\n%s", diff)
	}
	_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, Ipv4PrefixCount: aws.Int32(2),
	})
	wantCode(t, err, "InsufficientCidrBlocks")
	checkInvariants(t, w.Cloud)
}

// TestUnsupportedByType checks that calls are refused that the instance type does
// not support: prefixes, a trunk ENI, a second network card.
func TestUnsupportedByType(t *testing.T) {
	w := newWorld(t, setup{kind: "t2.medium"})
	id := w.ENIs()[0].ID
	_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, Ipv4PrefixCount: aws.Int32(1),
	})
	wantCode(t, err, "UnsupportedOperation")
	trunk := must(w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: &w.subnet.ID, InterfaceType: types.NetworkInterfaceCreationTypeTrunk,
	}))(t)
	_, err = w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: trunk.NetworkInterface.NetworkInterfaceId, InstanceId: &w.instance.ID, DeviceIndex: aws.Int32(1),
	})
	wantCode(t, err, "UnsupportedOperation")
	_, err = w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: aws.String(w.create(t)), InstanceId: &w.instance.ID, DeviceIndex: aws.Int32(1), NetworkCardIndex: aws.Int32(1),
	})
	wantCode(t, err, "InvalidParameterValue")
}

// TestCards checks that each network card has its own device indexes and its own
// limit of ENIs.
func TestCards(t *testing.T) {
	w := newWorld(t, setup{kind: "c6in.32xlarge"})
	attach := func(card, device int32) error {
		_, err := w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: aws.String(w.create(t)), InstanceId: &w.instance.ID, DeviceIndex: &device, NetworkCardIndex: &card,
		})
		return err
	}
	for card := range int32(2) {
		for device := int32(1); device <= 8; device++ {
			if err := attach(card, device); codeOf(err) != map[bool]string{true: "AttachmentLimitExceeded"}[card == 0 && device == 8] {
				t.Errorf("card %d device %d: %v", card, device, err)
			}
		}
	}
	if err := attach(1, 9); codeOf(err) != "AttachmentLimitExceeded" {
		t.Errorf("a ninth ENI on card 1: error %v, want AttachmentLimitExceeded", err)
	}
	checkInvariants(t, w.Cloud)
}

// TestAllLimits fills an instance for each distinct set of limits: it attaches all
// ENIs to all cards, assigns all addresses to the primary ENI, and checks that one
// more of either is refused.
func TestAllLimits(t *testing.T) {
	done := map[string]bool{}
	for l := range instancetype.All() {
		name, limits := l.Type, fmt.Sprint(l.Cards, l.AddrsPerENI)
		if done[limits] {
			continue
		}
		done[limits] = true
		w := newWorld(t, setup{kind: name, prefix: "10.0.0.0/20"})
		attach := func(card, device int32) string {
			_, err := w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
				NetworkInterfaceId: aws.String(w.create(t)), InstanceId: &w.instance.ID, DeviceIndex: &device, NetworkCardIndex: &card,
			})
			return codeOf(err)
		}
		for card, n := range l.Cards {
			first := 0
			if card == l.DefaultCard {
				first = 1
			}
			for device := first; device < n; device++ {
				if code := attach(int32(card), int32(device)); code != "" {
					t.Errorf("%s: card %d device %d: %s", name, card, device, code)
				}
			}
			if code := attach(int32(card), int32(n)); code != "AttachmentLimitExceeded" {
				t.Errorf("%s: one too many on card %d: got code %q, want AttachmentLimitExceeded", name, card, code)
			}
		}
		in := &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: aws.String(primaryOf(w.Cloud)), SecondaryPrivateIpAddressCount: aws.Int32(int32(l.AddrsPerENI)),
		}
		_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), in)
		wantCode(t, err, "PrivateIpAddressLimitExceeded")
		*in.SecondaryPrivateIpAddressCount--
		must(w.ec2.AssignPrivateIpAddresses(t.Context(), in))(t)
		checkInvariants(t, w.Cloud)
	}
}

// TestIPv6Only checks that an instance in a subnet without IPv4, and its ENIs,
// have only IPv6 addresses.
func TestIPv6Only(t *testing.T) {
	w := newWorld(t, setup{ipv6: true})
	var err error
	if w.subnet, err = w.AddSubnet(enitest.SubnetInput{VPC: w.vpc.ID, IPv6: netip.MustParsePrefix("2001:db8:1:9::/64"), MapPublic: true}); err != nil {
		t.Fatal(err)
	}
	w.instance = w.runInstance(t, "m5.large")
	w.ec2, w.imds = w.clients(w.instance.ID)
	e, _ := w.ENI(w.create(t))
	if e.Addr.IsValid() || len(e.IPv6Addrs) != 1 {
		t.Errorf("got addresses %v and %v, want one IPv6 address", e.Addr, e.IPv6Addrs)
	}
	_, err = w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &e.ID, Ipv4PrefixCount: aws.Int32(1),
	})
	wantCode(t, err, "UnsupportedOperation")
	_, err = w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: &w.subnet.ID, SecondaryPrivateIpAddressCount: aws.Int32(1),
	})
	wantCode(t, err, "InvalidParameterValue")
	out := must(w.ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{
		Filters: []types.Filter{{Name: aws.String("ipv6-native"), Values: []string{"true"}}},
	}))(t)
	if len(out.Subnets) != 1 || out.Subnets[0].CidrBlock != nil {
		t.Errorf("got %d subnets without IPv4, want 1", len(out.Subnets))
	}
	if got := metadata(t, w.imds, "local-ipv4"); got != "404" {
		t.Errorf("got local-ipv4 %q, want status 404", got)
	}
	mac := "network/interfaces/macs/" + metadata(t, w.imds, "mac") + "/"
	got := []string{metadata(t, w.imds, mac+"local-ipv4s"), metadata(t, w.imds, mac+"subnet-ipv4-cidr-block"), metadata(t, w.imds, mac+"subnet-ipv6-cidr-blocks")}
	if diff := cmp.Diff([]string{"404", "404", "2001:db8:1:9::/64"}, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	roundTrip(t, w.Cloud)
}

// TestInstanceFilters finds instances by filters on their properties and on their
// ENIs.
func TestInstanceFilters(t *testing.T) {
	s := newStage(t)
	other := must(s.RunInstance(enitest.InstanceInput{Subnet: s.subnet.ID, Type: "c5.large", MetadataTags: true}))(t)
	if err := s.AddTags(s.second, map[string]string{"app": "web"}); err != nil {
		t.Fatal(err)
	}
	id, _, err := s.allocate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{s.instance.ID: "stage", other.ID: "other"}
	for _, tt := range []struct {
		filter []string
		want   []string
	}{
		{[]string{"architecture", "x86_64"}, []string{"other", "stage"}},
		{[]string{"key-name", "*"}, nil},
		{[]string{"launch-index", "0"}, []string{"other", "stage"}},
		{[]string{"metadata-options.instance-metadata-tags", "enabled"}, []string{"other"}},
		{[]string{"instance.group-name", "default"}, []string{"other", "stage"}},
		{[]string{"network-interface.attachment.device-index", "1"}, []string{"stage"}},
		{[]string{"network-interface.attachment.attachment-id", s.secondAttachment}, []string{"stage"}},
		{[]string{"network-interface.addresses.association.allocation-id", id}, []string{"stage"}},
		{[]string{"network-interface.association.allocation-id", id}, nil},
		{[]string{"network-interface.addresses.private-ip-address", "10.0.1.200"}, []string{"stage"}},
		{[]string{"network-interface.addresses.primary", "false"}, []string{"stage"}},
		{[]string{"network-interface.ipv6-native", "false"}, []string{"other", "stage"}},
		{[]string{"network-interface.tag-value", "web"}, []string{"stage"}},
		{[]string{"network-interface.requester-managed", "true"}, nil},
		{[]string{"source-dest-check", "true"}, []string{"other", "stage"}},
	} {
		out := must(s.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{
			Filters: []types.Filter{{Name: &tt.filter[0], Values: tt.filter[1:]}},
		}))(t)
		var got []string
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				got = append(got, names[*i.InstanceId])
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.filter, diff)
		}
	}
}

// TestOtherFilters finds subnets and VPCs by their associations.
func TestOtherFilters(t *testing.T) {
	w := newWorld(t, setup{ipv6: true})
	subnets := must(w.ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{Filters: []types.Filter{
		{Name: aws.String("ipv6-cidr-block-association.state"), Values: []string{"associated"}},
		{Name: aws.String("subnet-arn"), Values: []string{"arn:aws:ec2:us-west-2:123456789012:subnet/" + w.subnet.ID}},
	}}))(t)
	vpcs := must(w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{Filters: []types.Filter{
		{Name: aws.String("cidr-block-association.association-id"), Values: []string{"vpc-cidr-assoc-" + w.vpc.ID[len("vpc-"):]}},
		{Name: aws.String("cidr-block-association.state"), Values: []string{"associated"}},
	}}))(t)
	if len(subnets.Subnets) != 1 || len(vpcs.Vpcs) != 1 {
		t.Errorf("got %d subnets and %d VPCs, want 1 and 1", len(subnets.Subnets), len(vpcs.Vpcs))
	}
}
