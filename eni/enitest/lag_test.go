// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// lagRow creates a resource of one kind over the API and counts how many of that ID the
// Describe call of the kind shows.
type lagRow struct {
	create func(context.Context, *world) (*string, error)
	count  func(context.Context, *world, *string) (int, error)
}

func filter(name string, value *string) []types.Filter {
	return []types.Filter{{Name: &name, Values: []string{*value}}}
}

var lagRows = map[string]lagRow{
	"network-interface": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID})
			return out.NetworkInterface.NetworkInterfaceId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filter("network-interface-id", id)})
			return len(out.NetworkInterfaces), err
		},
	},
	"instance": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &w.subnet.ID,
			})
			return out.Instances[0].InstanceId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: filter("instance-id", id)})
			return len(out.Reservations), err
		},
	},
	"subnet": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &w.vpc.ID, CidrBlock: aws.String("10.0.9.0/24")})
			return out.Subnet.SubnetId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: filter("subnet-id", id)})
			return len(out.Subnets), err
		},
	},
	"vpc": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.9.0.0/16")})
			return out.Vpc.VpcId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filter("vpc-id", id)})
			return len(out.Vpcs), err
		},
	},
	"security-group": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
				VpcId: &w.vpc.ID, GroupName: aws.String("new"), Description: aws.String("new"),
			})
			return out.GroupId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: filter("group-id", id)})
			return len(out.SecurityGroups), err
		},
	},
	"route-table": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &w.vpc.ID})
			return out.RouteTable.RouteTableId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: filter("route-table-id", id)})
			return len(out.RouteTables), err
		},
	},
	"network-acl": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &w.vpc.ID})
			return out.NetworkAcl.NetworkAclId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{Filters: filter("network-acl-id", id)})
			return len(out.NetworkAcls), err
		},
	},
	"launch-template": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
				LaunchTemplateName: aws.String("node"), LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1")},
			})
			return out.LaunchTemplate.LaunchTemplateId, err
		},
		func(ctx context.Context, w *world, _ *string) (int, error) {
			out, err := w.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{})
			return len(out.LaunchTemplates), err
		},
	},
	"elastic-ip": {
		func(ctx context.Context, w *world) (*string, error) {
			out, err := w.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{})
			return out.AllocationId, err
		},
		func(ctx context.Context, w *world, id *string) (int, error) {
			out, err := w.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: filter("allocation-id", id)})
			return len(out.Addresses), err
		},
	},
}

// TestLagOfEveryKind creates a resource of each kind under lag. Describe calls do not
// show it for Lag.Describe, and calls that name it do not find it for Lag.Write.
func TestLagOfEveryKind(t *testing.T) {
	for _, kind := range enitest.TaggedKinds() {
		t.Run(kind, func(t *testing.T) {
			row, ok := lagRows[kind]
			if !ok {
				t.Fatal("lagRows has no row for this kind")
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				time.Sleep(time.Minute)
				w.SetLag(enitest.Lag{Describe: 5 * time.Second, Write: 2 * time.Second})
				id, err := row.create(t.Context(), w)
				if err != nil {
					t.Fatal(err)
				}
				tag := func() error {
					_, err := w.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{
						Resources: []string{*id}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
					})
					return err
				}
				check := func(when string, count int, found bool) {
					t.Helper()
					n, err := row.count(t.Context(), w, id)
					if err != nil || n != count {
						t.Errorf("%s: Describe shows %d (error %v), want %d", when, n, err, count)
					}
					tags, err := w.ec2.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: filter("resource-id", id)})
					if err != nil || len(tags.Tags) != 0 {
						t.Errorf("%s: DescribeTags shows %d (error %v), want 0", when, len(tags.Tags), err)
					}
					if err := tag(); (err == nil) != found {
						t.Errorf("%s: CreateTags returns %v, want success %t", when, err, found)
					}
				}
				check("at once", 0, false)
				time.Sleep(3 * time.Second)
				check("after Lag.Write", 0, true)
				time.Sleep(3 * time.Second)
				check("after Lag.Describe", 1, true)
				time.Sleep(3 * time.Second)
				tags, err := w.ec2.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: filter("resource-id", id)})
				if err != nil || len(tags.Tags) != 1 {
					t.Errorf("DescribeTags shows %d tags (error %v), want 1", len(tags.Tags), err)
				}
			})
		})
	}
}

// TestLagOfChanges changes resources under lag and checks that answers show the state
// as it was, also where one resource refers to another.
func TestLagOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		ctx := t.Context()
		time.Sleep(time.Minute)
		s.SetLag(enitest.Lag{Describe: 5 * time.Second, Keys: map[string]time.Duration{"public-ipv4s": 9 * time.Second}})
		if err := s.route(ctx, "10.7.0.0/16"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
			GroupId: &s.SecurityGroups()[0].ID, IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(2), CidrIp: aws.String("10.0.0.0/8"),
		}); err != nil {
			t.Fatal(err)
		}
		acl := must(s.ec2.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &s.vpc.ID}))(t).NetworkAcl.NetworkAclId
		if _, err := s.ec2.ReplaceNetworkAclAssociation(ctx, &ec2.ReplaceNetworkAclAssociationInput{
			AssociationId: &s.NetworkACLs()[0].Associations[0].ID, NetworkAclId: acl,
		}); err != nil {
			t.Fatal(err)
		}
		id, _, err := s.allocate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		e, _ := s.ENI(s.second)
		shown := func() []int {
			routes := must(s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{*s.table()}}))(t).RouteTables[0].Routes
			rules := must(s.ec2.DescribeSecurityGroupRules(ctx, &ec2.DescribeSecurityGroupRulesInput{}))(t).SecurityGroupRules
			own := must(s.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{Filters: filter("association.network-acl-id", acl)}))(t).NetworkAcls
			public := must(s.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{
				Filters: filter("addresses.association.allocation-id", &id),
			}))(t).NetworkInterfaces
			known := 0
			if metadata(t, s.imds, "network/interfaces/macs/"+e.MAC+"/public-ipv4s") != "404" {
				known = 1
			}
			return []int{len(routes), len(rules), len(own), len(public), known}
		}
		want := func(when string, want ...int) {
			t.Helper()
			if got := shown(); !slices.Equal(got, want) {
				t.Errorf("%s: got routes, rules, ACLs, public ENIs and metadata %v, want %v", when, got, want)
			}
		}
		want("at once", 2, 3, 0, 0, 0)
		time.Sleep(6 * time.Second)
		want("after Lag.Describe", 3, 4, 1, 1, 0)
		time.Sleep(4 * time.Second)
		want("after Lag.Metadata", 3, 4, 1, 1, 1)
	})
}
