// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// refusals are calls that EC2 refuses, with its error code and a part of its
// message.
var refusals = []struct {
	name, code, message string
	call                func(context.Context, *stage) error
}{
	{"describe unknown", "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-0' does not exist",
		func(ctx context.Context, s *stage) error { return s.describe(ctx, s.free, "eni-0") }},
	{"describe two unknown", "InvalidNetworkInterfaceID.NotFound", "The networkInterface IDs 'eni-0, eni-1' do not exist",
		func(ctx context.Context, s *stage) error { return s.describe(ctx, "eni-0", "eni-1") }},
	{"describe malformed", "InvalidNetworkInterfaceId.Malformed", `Invalid id: "i-0"`,
		func(ctx context.Context, s *stage) error { return s.describe(ctx, "i-0") }},
	{"describe an ID with letters", "InvalidNetworkInterfaceId.Malformed", `Invalid id: "eni-xyz"`,
		func(ctx context.Context, s *stage) error { return s.describe(ctx, "eni-xyz") }},
	{"unknown group name", "InvalidGroup.NotFound", "The security group 'nope' does not exist",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"nope"}})
			return err
		}},
	{"page of types", "InvalidParameterValue", "between 5 and 100.",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{MaxResults: aws.Int32(500)})
			return err
		}},
	{"tags of another type", "InvalidParameterValue", "'instance' is not a valid taggable resource type",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{
				TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeInstance, "a")},
			})
		}},
	{"run without a subnet", "VPCIdNotSpecified", "No default VPC for this user",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
			})
			return err
		}},
	{"run with an unknown group name", "InvalidGroup.NotFound", "The security group 'nope' does not exist",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &s.subnet.ID,
				SecurityGroups: []string{"nope"},
			})
			return err
		}},
	{"create without subnet", "InvalidSubnetID.NotFound", "The subnet ID 'subnet-0' does not exist",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{SubnetId: aws.String("subnet-0")})
		}},
	{"create with unknown group", "InvalidSecurityGroupID.NotFound", "The securityGroup ID 'sg-0' does not exist",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{Groups: []string{"sg-0"}})
		}},
	{"create with address in use", "InvalidIPAddress.InUse", "Address 10.0.1.200 is in use",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{PrivateIpAddress: aws.String("10.0.1.200")})
		}},
	{"create with reserved address", "InvalidParameterValue", "reserved address range",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{PrivateIpAddress: aws.String("10.0.1.3")})
		}},
	{"create with foreign address", "InvalidParameterValue", "does not fall within the subnet's address range",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{PrivateIpAddress: aws.String("10.0.2.9")})
		}},
	{"create with unaligned prefix", "InvalidParameterValue", "10.0.1.24/28",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{
				Ipv4Prefixes: []types.Ipv4PrefixSpecificationRequest{{Ipv4Prefix: aws.String("10.0.1.24/28")}},
			})
		}},
	{"create with count and addresses", "InvalidParameterCombination", "not both",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{
				SecondaryPrivateIpAddressCount: aws.Int32(1),
				PrivateIpAddresses:             []types.PrivateIpAddressSpecification{{PrivateIpAddress: aws.String("10.0.1.99")}},
			})
		}},
	{"address for an EFA-only interface", "InvalidParameterCombination", "has no IP addresses",
		func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{
				InterfaceType: types.NetworkInterfaceCreationTypeEfaOnly, SecondaryPrivateIpAddressCount: aws.Int32(1),
			})
		}},
	{"create in full subnet", "InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes",
		func(ctx context.Context, s *stage) error {
			s.fill(1)
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{})
		}},
	{"assign more than the type takes", "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.",
		func(ctx context.Context, s *stage) error {
			return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{SecondaryPrivateIpAddressCount: aws.Int32(14)})
		}},
	{"assign prefixes in fragmented subnet", "InsufficientCidrBlocks", "does not have enough free cidr blocks",
		func(ctx context.Context, s *stage) error {
			s.fill(16)
			return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(1)})
		}},
	{"assign prefixes in full subnet", "InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes",
		func(ctx context.Context, s *stage) error {
			s.fill(1)
			return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(1)})
		}},
	{"assign addresses in full subnet", "InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes",
		func(ctx context.Context, s *stage) error {
			s.fill(1)
			return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{SecondaryPrivateIpAddressCount: aws.Int32(1)})
		}},
	{"run in full subnet", "InsufficientFreeAddressesInSubnet", "to satisfy the requested number of instances",
		func(ctx context.Context, s *stage) error {
			s.fill(1)
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &s.subnet.ID,
			})
			return err
		}},
	{"assign two kinds", "InvalidParameterCombination", "Only one of",
		func(ctx context.Context, s *stage) error {
			return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{
				Ipv4PrefixCount: aws.Int32(1), SecondaryPrivateIpAddressCount: aws.Int32(1),
			})
		}},
	{"assign nothing", "MissingParameter", "must contain",
		func(ctx context.Context, s *stage) error { return s.assign(ctx, ec2.AssignPrivateIpAddressesInput{}) }},
	{"unassign the primary address", "InvalidParameterValue", "primary private IP address and cannot be unassigned",
		func(ctx context.Context, s *stage) error { return s.unassign(ctx, "10.0.1.200") }},
	{"unassign what is not there", "InvalidParameterValue", "Some of the specified addresses are not assigned to interface eni-",
		func(ctx context.Context, s *stage) error { return s.unassign(ctx, "10.0.1.201") }},
	{"attach what is attached", "InvalidNetworkInterface.InUse", "in use.",
		func(ctx context.Context, s *stage) error { return s.attach(ctx, s.second, 2) }},
	{"attach a branch", "InvalidNetworkInterface.InUse", "in use.",
		func(ctx context.Context, s *stage) error { return s.attach(ctx, s.branch, 2) }},
	{"attach at a taken index", "InvalidParameterValue", "already has an interface attached at device index '1'.",
		func(ctx context.Context, s *stage) error { return s.attach(ctx, s.free, 1) }},
	{"attach too many", "AttachmentLimitExceeded", "Interface count 5 exceeds the limit for m5.xlarge",
		func(ctx context.Context, s *stage) error {
			if err := s.attach(ctx, s.free, 2); err != nil {
				return fmt.Errorf("attach the last ENI within the limit: %w", err)
			}
			e, err := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &s.subnet.ID})
			if err != nil {
				return err
			}
			return s.attach(ctx, *e.NetworkInterface.NetworkInterfaceId, 9)
		}},
	{"attach to unknown instance", "InvalidInstanceID.NotFound", "The instance ID 'i-0' does not exist",
		func(ctx context.Context, s *stage) error {
			s.instance.ID = "i-0"
			return s.attach(ctx, s.free, 2)
		}},
	{"attach to terminated instance", "IncorrectState", "not in a valid state",
		func(ctx context.Context, s *stage) error {
			if err := s.TerminateInstance(s.instance.ID); err != nil {
				return err
			}
			return s.attach(ctx, s.free, 2)
		}},
	{"attach in another zone", "InvalidParameterCombination", "not in the same availability zone",
		func(ctx context.Context, s *stage) error {
			other, err := s.AddSubnet(enitest.SubnetInput{VPC: s.vpc.ID, Zone: "us-west-2b", Prefix: netip.MustParsePrefix("10.0.9.0/24")})
			if err != nil {
				return err
			}
			e, err := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &other.ID})
			if err != nil {
				return err
			}
			return s.attach(ctx, *e.NetworkInterface.NetworkInterfaceId, 2)
		}},
	{"detach the primary", "OperationNotPermitted", "device index 0",
		func(ctx context.Context, s *stage) error {
			e, _ := s.ENI(primaryOf(s.Cloud))
			_, err := s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &e.Attachment.ID})
			return err
		}},
	{"detach unknown", "InvalidAttachmentID.NotFound", "The attachment ID 'eni-attach-0' does not exist",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: aws.String("eni-attach-0")})
			return err
		}},
	{"delete what is attached", "InvalidParameterValue", "is currently in use.",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &s.second})
			return err
		}},
	{"modify two attributes", "InvalidParameterCombination", "Exactly one attribute",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
				NetworkInterfaceId: &s.free, Description: &types.AttributeValue{Value: aws.String("x")},
				SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
			})
			return err
		}},
	{"second trunk", "AttachmentLimitExceeded", "already has a trunk",
		func(ctx context.Context, s *stage) error {
			e, err := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{
				SubnetId: &s.subnet.ID, InterfaceType: types.NetworkInterfaceCreationTypeTrunk,
			})
			if err != nil {
				return err
			}
			return s.attach(ctx, *e.NetworkInterface.NetworkInterfaceId, 2)
		}},
	{"associate a taken VLAN", "InvalidParameterValue", "VLAN ID 7 is already in use",
		func(ctx context.Context, s *stage) error { return s.associate(ctx, s.free, 7) }},
	{"associate a bad VLAN", "InvalidParameterValue", "between 1 and 4094",
		func(ctx context.Context, s *stage) error { return s.associate(ctx, s.free, 4095) }},
	{"reserve twice", "InvalidParameterValue", "has overlap",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateSubnetCidrReservation(ctx, &ec2.CreateSubnetCidrReservationInput{
				SubnetId: &s.subnet.ID, Cidr: aws.String("10.0.1.64/28"), ReservationType: types.SubnetCidrReservationTypeExplicit,
			})
			return err
		}},
	{"tag what is not there", "InvalidNetworkInterfaceID.NotFound", "eni-0",
		func(ctx context.Context, s *stage) error { return s.tag(ctx, "a", "eni-0", s.free) }},
	{"long tag key", "InvalidParameterValue", "128 characters",
		func(ctx context.Context, s *stage) error { return s.tag(ctx, strings.Repeat("ü", 129), s.free) }},
	{"reserved tag", "InvalidParameterValue", "reserved for internal use",
		func(ctx context.Context, s *stage) error { return s.tag(ctx, "aws:x", s.free) }},
	{"unknown type", "InvalidInstanceType", "z9.nano",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"z9.nano"}})
			return err
		}},
	{"unknown filter", "InvalidParameterValue", "The filter 'colour' is invalid",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{
				Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}},
			})
			return err
		}},
	{"bad page token", "InvalidNextToken", "xyz",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{NextToken: aws.String("xyz")})
			return err
		}},
	{"page size and IDs", "InvalidParameterCombination", "maxResults",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{s.subnet.ID}, MaxResults: aws.Int32(5)})
			return err
		}},
	{"page size", "InvalidParameterValue", "between 5 and 1000",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{MaxResults: aws.Int32(4)})
			return err
		}},
	{"no IPv6 in the subnet", "InvalidParameterValue", "does not have an associated IPv6 CIDR block",
		func(ctx context.Context, s *stage) error {
			other, err := s.AddSubnet(enitest.SubnetInput{VPC: s.vpc.ID, Prefix: netip.MustParsePrefix("10.0.9.0/24")})
			if err != nil {
				return err
			}
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{SubnetId: &other.ID, Ipv6AddressCount: aws.Int32(1)})
		}},
	{"unknown parameter", "UnknownParameter", "The parameter Operator.Principal is not recognized",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
				Operator: &types.OperatorRequest{Principal: aws.String("eks.amazonaws.com")},
			})
			return err
		}},
	{"subnet of instance and of interface", "InvalidParameterCombination", "may not be specified on the same request",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &s.subnet.ID,
				NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), SubnetId: &s.subnet.ID}},
			})
			return err
		}},
	{"unknown action", "InvalidAction", "CreateKeyPair",
		func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: aws.String("k")})
			return err
		}},
}

// TestRefusals checks that each refused call returns EC2's error code and keeps
// the invariants.
func TestRefusals(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			err := tt.call(t.Context(), s)
			wantCode(t, err, tt.code)
			if err != nil && !strings.Contains(err.Error(), tt.message) {
				t.Errorf("got error %v, want %q in it", err, tt.message)
			}
			checkInvariants(t, s.Cloud)
		})
	}
}

func (s *stage) describe(ctx context.Context, ids ...string) error {
	_, err := s.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: ids})
	return err
}

func (s *stage) create(ctx context.Context, in ec2.CreateNetworkInterfaceInput) error {
	if in.SubnetId == nil {
		in.SubnetId = &s.subnet.ID
	}
	_, err := s.ec2.CreateNetworkInterface(ctx, &in)
	return err
}

func (s *stage) attach(ctx context.Context, id string, device int32) error {
	_, err := s.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &id, InstanceId: &s.instance.ID, DeviceIndex: &device,
	})
	return err
}

// assign assigns to the second ENI, which has two addresses.
func (s *stage) assign(ctx context.Context, in ec2.AssignPrivateIpAddressesInput) error {
	in.NetworkInterfaceId = &s.second
	_, err := s.ec2.AssignPrivateIpAddresses(ctx, &in)
	return err
}

func (s *stage) unassign(ctx context.Context, addr string) error {
	_, err := s.ec2.UnassignPrivateIpAddresses(ctx, &ec2.UnassignPrivateIpAddressesInput{
		NetworkInterfaceId: &s.second, PrivateIpAddresses: []string{addr},
	})
	return err
}

func (s *stage) associate(ctx context.Context, branch string, vlan int32) error {
	_, err := s.ec2.AssociateTrunkInterface(ctx, &ec2.AssociateTrunkInterfaceInput{
		BranchInterfaceId: &branch, TrunkInterfaceId: &s.trunk, VlanId: &vlan,
	})
	return err
}

func (s *stage) tag(ctx context.Context, key string, ids ...string) error {
	_, err := s.ec2.CreateTags(ctx, &ec2.CreateTagsInput{
		Resources: ids, Tags: []types.Tag{{Key: &key, Value: aws.String("v")}},
	})
	return err
}

// fill occupies every free address that has a multiple of step as its last byte.
func (s *stage) fill(step int) {
	for i := 0; i < 256; i += step {
		// Occupy returns an error for addresses that are in use already.
		_ = s.Occupy(s.subnet.ID, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
}

// TestLengthOfTags counts characters, and not bytes.
func TestLengthOfTags(t *testing.T) {
	s := newStage(t)
	if err := s.tag(t.Context(), strings.Repeat("ü", 128), s.free); err != nil {
		t.Errorf("tag key of 128 characters: %v", err)
	}
}
