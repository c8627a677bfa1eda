// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// stage is a world with one object of each kind that the API knows: a free ENI,
// an attached one, a trunk with a branch, a reservation.
type stage struct {
	*world
	free, second, trunk, branch string
	association, reservation    string
	secondAttachment            string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{world: newWorld(t, setup{kind: "m5.xlarge", ipv6: true})}
	ctx := t.Context()
	create := func(in ec2.CreateNetworkInterfaceInput) string {
		in.SubnetId = &s.subnet.ID
		return *must(s.ec2.CreateNetworkInterface(ctx, &in))(t).NetworkInterface.NetworkInterfaceId
	}
	attach := func(id string, device int32) string {
		return *must(s.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &id, InstanceId: &s.instance.ID, DeviceIndex: &device,
		}))(t).AttachmentId
	}
	s.free = create(ec2.CreateNetworkInterfaceInput{})
	s.second = create(ec2.CreateNetworkInterfaceInput{
		PrivateIpAddress: aws.String("10.0.1.200"), SecondaryPrivateIpAddressCount: aws.Int32(1), Ipv6AddressCount: aws.Int32(1),
	})
	s.secondAttachment = attach(s.second, 1)
	s.trunk = create(ec2.CreateNetworkInterfaceInput{InterfaceType: types.NetworkInterfaceCreationTypeTrunk})
	attach(s.trunk, 3)
	s.branch = create(ec2.CreateNetworkInterfaceInput{})
	s.association = *must(s.ec2.AssociateTrunkInterface(ctx, &ec2.AssociateTrunkInterfaceInput{
		BranchInterfaceId: &s.branch, TrunkInterfaceId: &s.trunk, VlanId: aws.Int32(7),
	}))(t).InterfaceAssociation.AssociationId
	s.reservation = *must(s.ec2.CreateSubnetCidrReservation(ctx, &ec2.CreateSubnetCidrReservationInput{
		SubnetId: &s.subnet.ID, Cidr: aws.String("10.0.1.64/26"), ReservationType: types.SubnetCidrReservationTypePrefix,
	}))(t).SubnetCidrReservation.SubnetCidrReservationId
	return s
}

// calls holds one valid call of each action. Each function returns a part of the
// answer or of the state, and the value that the part must have.
var calls = map[string]func(context.Context, *stage) (got any, want any, err error){
	"AssignIpv6Addresses": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{
			NetworkInterfaceId: &s.free, Ipv6Addresses: []string{"2001:db8:1:2::beef"},
		})
		return out.AssignedIpv6Addresses, []string{"2001:db8:1:2::beef"}, err
	},
	"AssignPrivateIpAddresses": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &s.free, Ipv4PrefixCount: aws.Int32(1),
		})
		return *out.AssignedIpv4Prefixes[0].Ipv4Prefix, "10.0.1.64/28", err
	},
	"AssociateTrunkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AssociateTrunkInterface(ctx, &ec2.AssociateTrunkInterfaceInput{
			BranchInterfaceId: &s.free, TrunkInterfaceId: &s.trunk, VlanId: aws.Int32(8),
		})
		return *out.InterfaceAssociation.VlanId, int32(8), err
	},
	"AttachNetworkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &s.free, InstanceId: &s.instance.ID, DeviceIndex: aws.Int32(2),
		})
		e, _ := s.ENI(s.free)
		return e.Attachment.Device, 2, err
	},
	"CreateNetworkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{
			SubnetId: &s.subnet.ID, PrivateIpAddress: aws.String("10.0.1.250"),
			PrivateIpAddresses: []types.PrivateIpAddressSpecification{{PrivateIpAddress: aws.String("10.0.1.251")}},
			Ipv6PrefixCount:    aws.Int32(1), ClientToken: aws.String("once"),
			ConnectionTrackingSpecification: &types.ConnectionTrackingSpecificationRequest{UdpTimeout: aws.Int32(30)},
		})
		e, _ := s.ENI(*out.NetworkInterface.NetworkInterfaceId)
		return []any{e.Addr.String(), e.Addrs[0].String(), len(e.IPv6Prefixes), e.IPv6Prefixes[0].Bits(), e.Tracking.UDP},
			[]any{"10.0.1.250", "10.0.1.251", 1, 80, 30}, err
	},
	"CreateSubnetCidrReservation": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateSubnetCidrReservation(ctx, &ec2.CreateSubnetCidrReservationInput{
			SubnetId: &s.subnet.ID, Cidr: aws.String("10.0.1.128/28"), ReservationType: types.SubnetCidrReservationTypeExplicit,
		})
		return *out.SubnetCidrReservation.Cidr, "10.0.1.128/28", err
	},
	"CreateTags": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.CreateTags(ctx, &ec2.CreateTagsInput{
			Resources: []string{s.free, s.instance.ID, s.subnet.ID, s.vpc.ID},
			Tags:      []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
		})
		e, _ := s.ENI(s.free)
		return []map[string]string{e.Tags, s.Subnets()[0].Tags, s.VPCs()[0].Tags, s.Instances()[0].Tags},
			[]map[string]string{{"a": "b"}, {"a": "b"}, {"a": "b"}, {"a": "b"}}, err
	},
	"DeleteNetworkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &s.free})
		_, ok := s.ENI(s.free)
		return ok, false, err
	},
	"DeleteSubnetCidrReservation": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.DeleteSubnetCidrReservation(ctx, &ec2.DeleteSubnetCidrReservationInput{
			SubnetCidrReservationId: &s.reservation,
		})
		return len(s.Subnets()[0].Reservations), 0, err
	},
	"DeleteTags": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.AddTags(s.free, map[string]string{"a": "b", "c": "d", "e": "f"}); err != nil {
			return nil, nil, err
		}
		_, err := s.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{s.free}, Tags: []types.Tag{
			{Key: aws.String("a")}, {Key: aws.String("c"), Value: aws.String("other")},
		}})
		e, _ := s.ENI(s.free)
		return e.Tags, map[string]string{"c": "d", "e": "f"}, err
	},
	"DescribeAvailabilityZones": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
		z := out.AvailabilityZones[0]
		return []string{*z.ZoneName, *z.ZoneId}, []string{"us-west-2a", "usw2-az1"}, err
	},
	"DescribeInstanceTypes": func(ctx context.Context, _ *stage) (any, any, error) {
		s := newEmptyClient()
		out, err := s.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{
			InstanceTypes: []types.InstanceType{"p4d.24xlarge"},
		})
		n := out.InstanceTypes[0].NetworkInfo
		return []int{int(*n.MaximumNetworkInterfaces), int(*n.Ipv4AddressesPerInterface), len(n.NetworkCards)}, []int{60, 50, 4}, err
	},
	"DescribeInstances": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance.ID}})
		i := out.Reservations[0].Instances[0]
		var devices []int32
		for _, e := range i.NetworkInterfaces {
			devices = append(devices, *e.Attachment.DeviceIndex)
		}
		return []any{i.State.Name, devices}, []any{types.InstanceStateNameRunning, []int32{0, 1, 3}}, err
	},
	"DescribeNetworkInterfaces": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{s.branch}})
		e := out.NetworkInterfaces[0]
		return []any{e.InterfaceType, e.Status}, []any{types.NetworkInterfaceTypeBranch, types.NetworkInterfaceStatusInUse}, err
	},
	"DescribeSecurityGroups": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"default"}})
		return *out.SecurityGroups[0].VpcId, s.vpc.ID, err
	},
	"DescribeSubnets": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{s.subnet.ID}})
		n := out.Subnets[0]
		return []any{*n.CidrBlock, *n.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock, *n.AvailableIpAddressCount},
			[]any{"10.0.1.0/24", "2001:db8:1:2::/64", int32(251 - 6)}, err
	},
	"DescribeTags": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.AddTags(s.free, map[string]string{"a": "b"}); err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeTags(ctx, &ec2.DescribeTagsInput{
			Filters: []types.Filter{{Name: aws.String("resource-type"), Values: []string{"network-interface"}}},
		})
		return []string{*out.Tags[0].ResourceId, *out.Tags[0].Key}, []string{s.free, "a"}, err
	},
	"DescribeTrunkInterfaceAssociations": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeTrunkInterfaceAssociations(ctx, &ec2.DescribeTrunkInterfaceAssociationsInput{})
		return *out.InterfaceAssociations[0].BranchInterfaceId, s.branch, err
	},
	"DescribeVpcs": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
		v := out.Vpcs[0]
		return []string{*v.CidrBlock, *v.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock}, []string{"10.0.0.0/16", "2001:db8:1::/56"}, err
	},
	"DetachNetworkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &s.secondAttachment})
		e, _ := s.ENI(s.second)
		return e.Attachment == nil, true, err
	},
	"DisassociateTrunkInterface": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.DisassociateTrunkInterface(ctx, &ec2.DisassociateTrunkInterfaceInput{AssociationId: &s.association})
		e, _ := s.ENI(s.branch)
		return e.Trunk == nil, true, err
	},
	"GetSubnetCidrReservations": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.GetSubnetCidrReservations(ctx, &ec2.GetSubnetCidrReservationsInput{SubnetId: &s.subnet.ID})
		return *out.SubnetIpv4CidrReservations[0].SubnetCidrReservationId, s.reservation, err
	},
	"ModifyNetworkInterfaceAttribute": func(ctx context.Context, s *stage) (any, any, error) {
		g, err := s.AddSecurityGroup(s.vpc.ID, "pods", nil)
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &s.free, Groups: []string{g.ID},
		})
		e, _ := s.ENI(s.free)
		return e.Groups, []string{g.ID}, err
	},
	"RunInstances": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
			KeyName: aws.String("k"), BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda")}},
			ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeC5Large, MinCount: aws.Int32(2), MaxCount: aws.Int32(2),
			NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{
				{DeviceIndex: aws.Int32(1), SubnetId: &s.subnet.ID, DeleteOnTermination: aws.Bool(false)},
				{DeviceIndex: aws.Int32(0), SubnetId: &s.subnet.ID, Ipv4PrefixCount: aws.Int32(1)},
			},
		})
		var n []int
		for _, i := range out.Instances {
			n = append(n, len(i.NetworkInterfaces))
		}
		return n, []int{2, 2}, err
	},
	"TerminateInstances": func(ctx context.Context, s *stage) (any, any, error) {
		primary := primaryOf(s.Cloud)
		out, err := s.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{s.instance.ID}})
		_, kept := s.ENI(primary)
		_, second := s.ENI(s.second)
		return []any{out.TerminatingInstances[0].CurrentState.Name, kept, second},
			[]any{types.InstanceStateNameTerminated, false, true}, err
	},
	"UnassignIpv6Addresses": func(ctx context.Context, s *stage) (any, any, error) {
		e, _ := s.ENI(s.second)
		_, err := s.ec2.UnassignIpv6Addresses(ctx, &ec2.UnassignIpv6AddressesInput{
			NetworkInterfaceId: &s.second, Ipv6Addresses: []string{e.IPv6Addrs[0].String()},
		})
		e, _ = s.ENI(s.second)
		return len(e.IPv6Addrs), 0, err
	},
	"UnassignPrivateIpAddresses": func(ctx context.Context, s *stage) (any, any, error) {
		e, _ := s.ENI(s.second)
		_, err := s.ec2.UnassignPrivateIpAddresses(ctx, &ec2.UnassignPrivateIpAddressesInput{
			NetworkInterfaceId: &s.second, PrivateIpAddresses: []string{e.Addrs[0].String()},
		})
		e, _ = s.ENI(s.second)
		return e.Addrs, []netip.Addr{}, err
	},
}

// newEmptyClient returns a client of an empty cloud.
func newEmptyClient() *ec2.Client {
	w := &world{Cloud: enitest.New(enitest.Config{})}
	client, _ := w.clients("")
	return client
}

// primaryOf returns the ID of the first primary ENI of a cloud.
func primaryOf(c *enitest.Cloud) string {
	for _, e := range c.ENIs() {
		if e.Attachment != nil && e.Attachment.Device == 0 {
			return e.ID
		}
	}
	return ""
}

// TestActions makes one valid call of each action with the SDK. It fails if an
// action has no row in calls, networkCalls or serverCalls.
func TestActions(t *testing.T) {
	for _, name := range enitest.ActionNames() {
		t.Run(name, func(t *testing.T) {
			call, ok := calls[name]
			if !ok {
				call, ok = networkCalls[name]
			}
			if !ok {
				call, ok = serverCalls[name]
			}
			if !ok {
				t.Fatal("none of calls, networkCalls and serverCalls has a row for this action")
			}
			s := newStage(t)
			s.ResetCalls()
			got, want, err := call(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
