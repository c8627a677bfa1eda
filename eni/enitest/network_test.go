// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// sts returns a client of the Security Token Service.
func (w *world) sts() *sts.Client {
	return sts.New(sts.Options{
		Region: w.Region(), HTTPClient: &http.Client{Transport: w.Transport(w.instance.ID)}, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
	})
}

// table returns the main route table, acl the default network ACL.
func (s *stage) table() *string { return &s.RouteTables()[0].ID }
func (s *stage) acl() *string   { return &s.NetworkACLs()[0].ID }

func (s *stage) newVPC(ctx context.Context, cidr string) (*string, error) {
	out, err := s.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: &cidr})
	if err != nil {
		return nil, err
	}
	return out.Vpc.VpcId, nil
}

func (s *stage) newTable(ctx context.Context) (*string, error) {
	out, err := s.ec2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &s.vpc.ID})
	if err != nil {
		return nil, err
	}
	return out.RouteTable.RouteTableId, nil
}

// route adds a route to the ENI second in the main table.
func (s *stage) route(ctx context.Context, to string) error {
	_, err := s.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: s.table(), DestinationCidrBlock: &to, NetworkInterfaceId: &s.second})
	return err
}

// targets returns the targets of the created routes of the main table.
func (s *stage) targets() []string {
	all := []string{}
	for _, r := range s.RouteTables()[0].Routes {
		all = append(all, r.Destination.String()+" "+r.Target)
	}
	return all
}

func (s *stage) entry(ctx context.Context, number int32) error {
	_, err := s.ec2.CreateNetworkAclEntry(ctx, &ec2.CreateNetworkAclEntryInput{
		NetworkAclId: s.acl(), RuleNumber: &number, Egress: aws.Bool(false), Protocol: aws.String("6"), RuleAction: types.RuleActionDeny,
		CidrBlock: aws.String("192.0.2.0/24"), PortRange: &types.PortRange{From: aws.Int32(22), To: aws.Int32(23)},
	})
	return err
}

// entries returns the numbers of the ingress entries of the default ACL.
func (s *stage) entries(ctx context.Context) (all []int32, err error) {
	out, err := s.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{NetworkAclIds: []string{*s.acl()}})
	if err != nil {
		return nil, err
	}
	for _, e := range out.NetworkAcls[0].Entries {
		if !*e.Egress {
			all = append(all, *e.RuleNumber)
		}
	}
	return all, nil
}

// allocate allocates an Elastic IP address and associates it with a secondary
// address of the ENI second.
func (s *stage) allocate(ctx context.Context) (id string, association *string, err error) {
	a, err := s.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	if err != nil {
		return "", nil, err
	}
	e, _ := s.ENI(s.second)
	out, err := s.ec2.AssociateAddress(ctx, &ec2.AssociateAddressInput{
		AllocationId: a.AllocationId, NetworkInterfaceId: &s.second, PrivateIpAddress: aws.String(e.Addrs[0].String()),
	})
	if err != nil {
		return "", nil, err
	}
	return *a.AllocationId, out.AssociationId, nil
}

func permissions(group string) []types.IpPermission {
	return []types.IpPermission{{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(81),
		IpRanges:         []types.IpRange{{CidrIp: aws.String("10.0.0.0/8"), Description: aws.String("web")}},
		Ipv6Ranges:       []types.Ipv6Range{{CidrIpv6: aws.String("2001:db8::/32")}},
		UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &group}},
	}}
}

// networkCalls holds the rows of TestActions for the actions on what surrounds the
// ENIs.
var networkCalls = map[string]func(context.Context, *stage) (got any, want any, err error){
	"GetCallerIdentity": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.sts().GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return nil, nil, err
		}
		return []string{*out.Account, *out.Arn}, []string{"123456789012", "arn:aws:iam::123456789012:user/AKIATEST"}, nil
	},
	"DescribeRegions": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{RegionNames: []string{"us-west-2"}})
		return *out.Regions[0].Endpoint, "ec2.us-west-2.amazonaws.com", err
	},
	"DescribeInstanceStatus": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{InstanceIds: []string{s.instance.ID}})
		i := out.InstanceStatuses[0]
		return []any{i.InstanceStatus.Status, i.SystemStatus.Details[0].Status}, []any{types.SummaryStatusOk, types.StatusTypePassed}, err
	},
	"DescribeNetworkInterfaceAttribute": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeNetworkInterfaceAttribute(ctx, &ec2.DescribeNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &s.second, Attribute: types.NetworkInterfaceAttributeAttachment,
		})
		return *out.Attachment.AttachmentId, s.secondAttachment, err
	},
	"DescribeAddresses": func(ctx context.Context, s *stage) (any, any, error) {
		id, _, err := s.allocate(ctx)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{
			Filters: []types.Filter{{Name: aws.String("network-interface-id"), Values: []string{s.second}}},
		})
		a := out.Addresses[0]
		return []string{*a.AllocationId, *a.InstanceId, *a.PrivateIpAddress}, []string{id, s.instance.ID, "10.0.1.6"}, err
	},
	"AllocateAddress": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{Address: aws.String("198.51.100.7")})
		return *out.PublicIp, s.Addresses()[0].Addr.String(), err
	},
	"AssociateAddress": func(ctx context.Context, s *stage) (any, any, error) {
		id, association, err := s.allocate(ctx)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{s.second}})
		a := out.NetworkInterfaces[0].PrivateIpAddresses[1].Association
		return []string{*a.AllocationId, *a.AssociationId, *a.IpOwnerId}, []string{id, *association, "123456789012"}, err
	},
	"DisassociateAddress": func(ctx context.Context, s *stage) (any, any, error) {
		_, association, err := s.allocate(ctx)
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DisassociateAddress(ctx, &ec2.DisassociateAddressInput{AssociationId: association})
		return s.Addresses()[0].ENI, "", err
	},
	"ReleaseAddress": func(ctx context.Context, s *stage) (any, any, error) {
		a, err := s.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: a.AllocationId})
		return len(s.Addresses()), 0, err
	},
	"DescribeRouteTables": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.route(ctx, "10.99.0.0/16"); err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
			Filters: []types.Filter{{Name: aws.String("association.main"), Values: []string{"true"}}},
		})
		got := []string{}
		for _, r := range out.RouteTables[0].Routes {
			got = append(got, aws.ToString(r.DestinationCidrBlock)+aws.ToString(r.DestinationIpv6CidrBlock)+" "+
				aws.ToString(r.GatewayId)+aws.ToString(r.NetworkInterfaceId)+" "+string(r.State))
		}
		return got, []string{"10.0.0.0/16 local active", "2001:db8:1::/56 local active", "10.99.0.0/16 " + s.second + " active"}, err
	},
	"CreateRouteTable": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.newTable(ctx)
		return len(s.RouteTables()), 2, err
	},
	"DeleteRouteTable": func(ctx context.Context, s *stage) (any, any, error) {
		id, err := s.newTable(ctx)
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: id})
		return len(s.RouteTables()), 1, err
	},
	"AssociateRouteTable": func(ctx context.Context, s *stage) (any, any, error) {
		id, err := s.newTable(ctx)
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: id, SubnetId: &s.subnet.ID})
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
			Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{s.subnet.ID}}},
		})
		return *out.RouteTables[0].RouteTableId, *id, err
	},
	"DisassociateRouteTable": func(ctx context.Context, s *stage) (any, any, error) {
		id, err := s.newTable(ctx)
		if err != nil {
			return nil, nil, err
		}
		a, err := s.ec2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: id, SubnetId: &s.subnet.ID})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: a.AssociationId})
		n := 0
		for _, r := range s.RouteTables() {
			n += len(r.Associations)
		}
		return n, 0, err
	},
	"CreateRoute": func(ctx context.Context, s *stage) (any, any, error) {
		err := s.route(ctx, "10.99.0.0/16")
		return s.targets(), []string{"10.99.0.0/16 " + s.second}, err
	},
	"ReplaceRoute": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.route(ctx, "0.0.0.0/0"); err != nil {
			return nil, nil, err
		}
		_, err := s.ec2.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{
			RouteTableId: s.table(), DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: aws.String("igw-1"),
		})
		return s.targets(), []string{"0.0.0.0/0 igw-1"}, err
	},
	"DeleteRoute": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.route(ctx, "10.99.0.0/16"); err != nil {
			return nil, nil, err
		}
		_, err := s.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: s.table(), DestinationCidrBlock: aws.String("10.99.0.0/16")})
		return s.targets(), []string{}, err
	},
	"AssociateVpcCidrBlock": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("100.64.0.0/16")})
		if err != nil {
			return nil, nil, err
		}
		vpcs, err := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
		return *vpcs.Vpcs[0].CidrBlockAssociationSet[1].AssociationId, *out.CidrBlockAssociation.AssociationId, err
	},
	"DisassociateVpcCidrBlock": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: &s.vpc.ID, AmazonProvidedIpv6CidrBlock: aws.Bool(true)})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DisassociateVpcCidrBlock(ctx, &ec2.DisassociateVpcCidrBlockInput{
			AssociationId: out.Ipv6CidrBlockAssociation.AssociationId,
		})
		return len(s.VPCs()[0].IPv6), 1, err
	},
	"CreateVpc": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{
			CidrBlock: aws.String("10.7.0.0/16"), AmazonProvidedIpv6CidrBlock: aws.Bool(true),
			TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeVpc, "a")},
		})
		return []any{*out.Vpc.CidrBlock, len(out.Vpc.Ipv6CidrBlockAssociationSet), *out.Vpc.Tags[0].Key}, []any{"10.7.0.0/16", 1, "a"}, err
	},
	"DeleteVpc": func(ctx context.Context, s *stage) (any, any, error) {
		id, err := s.newVPC(ctx, "10.7.0.0/16")
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: id})
		return []int{len(s.VPCs()), len(s.SecurityGroups()), len(s.RouteTables()), len(s.NetworkACLs())}, []int{1, 1, 1, 1}, err
	},
	"CreateSubnet": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{
			VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.9.0/24"), AvailabilityZoneId: aws.String("usw2-az3"),
			TagSpecifications: []types.TagSpecification{tagSpec(types.ResourceTypeSubnet, "a")},
		})
		return []any{*out.Subnet.AvailabilityZone, *out.Subnet.AvailableIpAddressCount, *out.Subnet.Tags[0].Key},
			[]any{"us-west-2c", int32(251), "a"}, err
	},
	"DeleteSubnet": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.9.0/24")})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: out.Subnet.SubnetId})
		return []int{len(s.Subnets()), len(s.NetworkACLs()[0].Associations)}, []int{1, 1}, err
	},
	"CreateSecurityGroup": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
			GroupName: aws.String("pods"), Description: aws.String("of pods"), VpcId: &s.vpc.ID,
		})
		if err != nil {
			return nil, nil, err
		}
		d, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{*out.GroupId}})
		g := d.SecurityGroups[0]
		return []any{*g.Description, len(g.IpPermissions), *g.IpPermissionsEgress[0].IpRanges[0].CidrIp}, []any{"of pods", 0, "0.0.0.0/0"}, err
	},
	"DeleteSecurityGroup": func(ctx context.Context, s *stage) (any, any, error) {
		g, err := s.AddSecurityGroup(s.vpc.ID, "pods", nil)
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &g.ID})
		return len(s.SecurityGroups()), 1, err
	},
	"AuthorizeSecurityGroupIngress": func(ctx context.Context, s *stage) (any, any, error) {
		g := s.SecurityGroups()[0].ID
		out, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &g, IpPermissions: permissions(g)})
		if err != nil {
			return nil, nil, err
		}
		d, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
			Filters: []types.Filter{{Name: aws.String("ip-permission.cidr"), Values: []string{"10.0.0.0/8"}}},
		})
		p := d.SecurityGroups[0].IpPermissions[1]
		return []any{len(out.SecurityGroupRules), *p.ToPort, len(p.IpRanges), len(p.Ipv6Ranges), len(p.UserIdGroupPairs)},
			[]any{3, int32(81), 1, 1, 1}, err
	},
	"AuthorizeSecurityGroupEgress": func(ctx context.Context, s *stage) (any, any, error) {
		g := s.SecurityGroups()[0].ID
		out, err := s.ec2.AuthorizeSecurityGroupEgress(ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &g, IpPermissions: permissions(g)})
		return *out.SecurityGroupRules[0].IsEgress, true, err
	},
	"RevokeSecurityGroupIngress": func(ctx context.Context, s *stage) (any, any, error) {
		g := s.SecurityGroups()[0].ID
		_, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &g, IpPermissions: permissions(g)})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &g, IpPermissions: permissions(g)})
		return len(s.SecurityGroups()[0].Rules), 3, err
	},
	"RevokeSecurityGroupEgress": func(ctx context.Context, s *stage) (any, any, error) {
		g := s.SecurityGroups()[0]
		_, err := s.ec2.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: &g.ID, SecurityGroupRuleIds: []string{g.Rules[0].ID}})
		return len(s.SecurityGroups()[0].Rules), 2, err
	},
	"DescribeSecurityGroupRules": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeSecurityGroupRules(ctx, &ec2.DescribeSecurityGroupRulesInput{
			Filters: []types.Filter{{Name: aws.String("group-id"), Values: []string{s.SecurityGroups()[0].ID}}},
		})
		return []any{len(out.SecurityGroupRules), *out.SecurityGroupRules[0].CidrIpv4}, []any{3, "0.0.0.0/0"}, err
	},
	"DescribeNetworkAcls": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{
			Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{s.subnet.ID}}},
		})
		return []any{*out.NetworkAcls[0].IsDefault, len(out.NetworkAcls[0].Entries)}, []any{true, 8}, err
	},
	"CreateNetworkAcl": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &s.vpc.ID})
		return []any{*out.NetworkAcl.IsDefault, len(out.NetworkAcl.Entries)}, []any{false, 4}, err
	},
	"DeleteNetworkAcl": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &s.vpc.ID})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.DeleteNetworkAcl(ctx, &ec2.DeleteNetworkAclInput{NetworkAclId: out.NetworkAcl.NetworkAclId})
		return len(s.NetworkACLs()), 1, err
	},
	"CreateNetworkAclEntry": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.entry(ctx, 7); err != nil {
			return nil, nil, err
		}
		got, err := s.entries(ctx)
		return got, []int32{7, 100, 101, 32767, 32768}, err
	},
	"ReplaceNetworkAclEntry": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.ReplaceNetworkAclEntry(ctx, &ec2.ReplaceNetworkAclEntryInput{
			NetworkAclId: s.acl(), RuleNumber: aws.Int32(100), Egress: aws.Bool(true), Protocol: aws.String("-1"),
			RuleAction: types.RuleActionDeny, CidrBlock: aws.String("0.0.0.0/0"),
		})
		return s.NetworkACLs()[0].Entries[0].Allow, false, err
	},
	"DeleteNetworkAclEntry": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.DeleteNetworkAclEntry(ctx, &ec2.DeleteNetworkAclEntryInput{
			NetworkAclId: s.acl(), RuleNumber: aws.Int32(100), Egress: aws.Bool(false),
		})
		if err != nil {
			return nil, nil, err
		}
		got, err := s.entries(ctx)
		return got, []int32{101, 32767, 32768}, err
	},
	"ReplaceNetworkAclAssociation": func(ctx context.Context, s *stage) (any, any, error) {
		before := s.NetworkACLs()[0].Associations[0].ID
		to, err := s.ec2.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &s.vpc.ID})
		if err != nil {
			return nil, nil, err
		}
		_, err = s.ec2.ReplaceNetworkAclAssociation(ctx, &ec2.ReplaceNetworkAclAssociationInput{
			AssociationId: &before, NetworkAclId: to.NetworkAcl.NetworkAclId,
		})
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{
			Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{s.subnet.ID}}},
		})
		return *out.NetworkAcls[0].NetworkAclId, *to.NetworkAcl.NetworkAclId, err
	},
}

// TestCallerIdentity checks that an instance is shown with its role, and that an
// error has the format of the Security Token Service.
func TestCallerIdentity(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{Region: "cn-north-1"}})
	role := func(o *sts.Options) {
		o.Credentials = credentials.NewStaticCredentialsProvider("ASIA"+w.instance.ID[2:], "secret", "token")
	}
	out := must(w.sts().GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}, role))(t)
	want := []string{"arn:aws-cn:sts::123456789012:assumed-role/node/" + w.instance.ID, "AROAENITESTNODEROLE01:" + w.instance.ID}
	if diff := cmp.Diff(want, []string{*out.Arn, *out.UserId}); diff != "" {
		t.Errorf("ARN and user ID (-want +got):\n%s", diff)
	}
	w.AddFault(enitest.Fault{Action: "GetCallerIdentity", Err: &enitest.APIError{Code: "ExpiredToken", Message: "the token has expired", Status: 403}})
	_, err := w.sts().GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	wantCode(t, err, "ExpiredToken")
}

// TestNetworkRefusals checks the error codes of refused calls on what surrounds the
// ENIs.
func TestNetworkRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		call       func(context.Context, *stage) error
	}{
		{"route twice", "RouteAlreadyExists", func(ctx context.Context, s *stage) error {
			if err := s.route(ctx, "10.99.0.0/16"); err != nil {
				return err
			}
			return s.route(ctx, "10.99.0.0/16")
		}},
		{"route over the local one", "RouteAlreadyExists", func(ctx context.Context, s *stage) error { return s.route(ctx, "10.0.0.0/16") }},
		{"route with host bits", "InvalidParameterValue", func(ctx context.Context, s *stage) error { return s.route(ctx, "10.0.0.1/16") }},
		{"route to an instance with two interfaces", "InvalidInstanceID", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{
				RouteTableId: s.table(), DestinationCidrBlock: aws.String("0.0.0.0/0"), InstanceId: &s.instance.ID,
			})
			return err
		}},
		{"replace no route", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{
				RouteTableId: s.table(), DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: aws.String("igw-1"),
			})
			return err
		}},
		{"delete no route", "InvalidRoute.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: s.table(), DestinationCidrBlock: aws.String("0.0.0.0/0")})
			return err
		}},
		{"unknown route table", "InvalidRouteTableID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{"rtb-0"}})
			return err
		}},
		{"main route table", "DependencyViolation", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: s.table()})
			return err
		}},
		{"VPC in use", "DependencyViolation", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &s.vpc.ID})
			return err
		}},
		{"large VPC", "InvalidVpc.Range", func(ctx context.Context, s *stage) error {
			_, err := s.newVPC(ctx, "10.0.0.0/8")
			return err
		}},
		{"overlapping block", "InvalidVpc.Range", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.0.0/16")})
			return err
		}},
		{"subnet in use", "DependencyViolation", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &s.subnet.ID})
			return err
		}},
		{"overlapping subnet", "InvalidSubnet.Conflict", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.1.0/25")})
			return err
		}},
		{"subnet out of the VPC", "InvalidSubnet.Range", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("10.9.1.0/24")})
			return err
		}},
		{"subnet in another region", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{
				VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.9.0/24"), AvailabilityZone: aws.String("eu-west-1a"),
			})
			return err
		}},
		{"group twice", "InvalidGroup.Duplicate", func(ctx context.Context, s *stage) error {
			if _, err := s.AddSecurityGroup(s.vpc.ID, "web", nil); err != nil {
				return err
			}
			_, err := s.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
				GroupName: aws.String("web"), Description: aws.String("d"), VpcId: &s.vpc.ID,
			})
			return err
		}},
		{"reserved group name", "InvalidGroup.Reserved", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
				GroupName: aws.String("default"), Description: aws.String("d"), VpcId: &s.vpc.ID,
			})
			return err
		}},
		{"entry that does not exist", "InvalidNetworkAclEntry.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteNetworkAclEntry(ctx, &ec2.DeleteNetworkAclEntryInput{
				NetworkAclId: s.acl(), RuleNumber: aws.Int32(7), Egress: aws.Bool(false),
			})
			return err
		}},
		{"malformed attachment", "InvalidNetworkInterfaceAttachmentId.Malformed", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &s.second})
			return err
		}},
		{"malformed allocation", "InvalidAllocationID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: aws.String("198.18.0.1")})
			return err
		}},
		{"malformed association", "InvalidAssociationID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: aws.String("xyz")})
			return err
		}},
		{"unknown group of an ENI", "InvalidSecurityGroupID.NotFound", func(ctx context.Context, s *stage) error {
			return s.create(ctx, ec2.CreateNetworkInterfaceInput{SubnetId: &s.subnet.ID, Groups: []string{"sg-0"}})
		}},
		{"malformed group of an ENI", "InvalidSecurityGroupId.Malformed", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
				NetworkInterfaceId: &s.free, Groups: []string{"sg-xyz"},
			})
			return err
		}},
		{"unknown group of an instance", "InvalidGroup.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
				ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &s.subnet.ID, SecurityGroupIds: []string{"sg-0"},
			})
			return err
		}},
		{"unknown instance type", "InvalidInstanceType", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"zz9.nano"}})
			return err
		}},
		{"default group", "CannotDelete", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &s.SecurityGroups()[0].ID})
			return err
		}},
		{"rule twice", "InvalidPermission.Duplicate", func(ctx context.Context, s *stage) error {
			g := s.SecurityGroups()[0].ID
			in := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &g, IpPermissions: permissions(g)}
			if _, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, in); err != nil {
				return err
			}
			_, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, in)
			return err
		}},
		{"revoke no rule", "InvalidPermission.NotFound", func(ctx context.Context, s *stage) error {
			g := s.SecurityGroups()[0].ID
			_, err := s.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &g, IpPermissions: permissions(g)})
			return err
		}},
		{"entry twice", "NetworkAclEntryAlreadyExists", func(ctx context.Context, s *stage) error { return s.entry(ctx, 100) }},
		{"release an address in use", "InvalidIPAddress.InUse", func(ctx context.Context, s *stage) error {
			id, _, err := s.allocate(ctx)
			if err != nil {
				return err
			}
			_, err = s.ec2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: &id})
			return err
		}},
		{"unknown address", "InvalidAllocationID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ReleaseAddress(ctx, &ec2.ReleaseAddressInput{AllocationId: aws.String("eipalloc-0")})
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			wantCode(t, tt.call(t.Context(), s), tt.code)
			checkInvariants(t, s.Cloud)
		})
	}
}

// TestBlackhole checks that a route to an ENI is a blackhole after its detachment,
// that an address loses its association with a deleted ENI, and that a dump holds
// both.
func TestBlackhole(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	if err := s.route(ctx, "10.99.0.0/16"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.allocate(ctx); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s.Cloud)
	must(s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &s.secondAttachment}))(t)
	out := must(s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
		Filters: []types.Filter{{Name: aws.String("route.state"), Values: []string{"blackhole"}}},
	}))(t)
	if len(out.RouteTables) != 1 {
		t.Errorf("got %d route tables with a blackhole, want 1", len(out.RouteTables))
	}
	must(s.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &s.second}))(t)
	if a := s.Addresses()[0]; a.ENI != "" || a.Association != "" {
		t.Errorf("got association %q with %q after the ENI was deleted, want none", a.Association, a.ENI)
	}
	roundTrip(t, s.Cloud)
}
