// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// pageSize is the number of results that describe calls request. EC2 limits calls
// with paging less strictly than calls without; 1000 is its maximum
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html).
const pageSize = 1000

// filter is one condition of a describe call: the named attribute has one of the
// values.
type filter struct {
	name   string
	values []string
}

func filtersOf(fs []filter) []types.Filter {
	out := make([]types.Filter, len(fs))
	for i, f := range fs {
		out[i] = types.Filter{Name: aws.String(f.name), Values: f.values}
	}
	return out
}

// describeENIs lists the ENIs that match all filters.
func (c *Client) describeENIs(ctx context.Context, fs ...filter) ([]ENI, error) {
	return c.listENIs(ctx, func() []filter { return fs })
}

// listENIs is describeENIs with filters that are computed only when the call is
// about to be sent.
func (c *Client) listENIs(ctx context.Context, fs func() []filter) ([]ENI, error) {
	var out []ENI
	in := &ec2.DescribeNetworkInterfacesInput{
		MaxResults: aws.Int32(pageSize),
		// An account can hide the ENIs of services, but they take places too.
		IncludeManagedResources: aws.Bool(true),
	}
	for {
		var page *ec2.DescribeNetworkInterfacesOutput
		err := c.call(ctx, "DescribeNetworkInterfaces", read, func(ctx context.Context) error {
			if in.NextToken == nil {
				in.Filters = filtersOf(fs())
			}
			out, err := c.ec2.DescribeNetworkInterfaces(ctx, in)
			page = out
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, ni := range page.NetworkInterfaces {
			out = append(out, eniOf(ni))
		}
		if aws.ToString(page.NextToken) == "" {
			return out, nil
		}
		in.NextToken = page.NextToken
	}
}

// withENI adds the ENI to the error of a call.
func withENI(id string, err error) error {
	var op *OpError
	if errors.As(err, &op) && op.ENI == "" {
		op.ENI = id
	}
	return err
}

// createENI creates the ENI that an intent describes. A repeated call for the same
// intent returns the same ENI.
func (c *Client) createENI(ctx context.Context, in Intent, tags map[string]string) (ENI, error) {
	req := &ec2.CreateNetworkInterfaceInput{
		SubnetId:    aws.String(in.Subnet),
		ClientToken: aws.String(in.Token),
		Groups:      in.Groups,
		Description: aws.String("vpcnet " + tags[TagInstance]),
		TagSpecifications: []types.TagSpecification{
			{ResourceType: types.ResourceTypeNetworkInterface, Tags: tagsOf(tags)},
		},
		SecondaryPrivateIpAddressCount: count(in.Addrs),
		Ipv4PrefixCount:                count(in.Prefixes),
		Ipv6AddressCount:               count(in.Addrs6),
		Ipv6PrefixCount:                count(in.Prefixes6),
	}
	if in.Kind != KindInterface {
		req.InterfaceType = types.NetworkInterfaceCreationType(in.Kind)
	}
	var made ENI
	err := c.call(ctx, "CreateNetworkInterface", repeatable, func(ctx context.Context) error {
		out, err := c.ec2.CreateNetworkInterface(ctx, req)
		if err != nil {
			return err
		}
		if out.NetworkInterface == nil {
			return errIncomplete
		}
		made = eniOf(*out.NetworkInterface)
		return nil
	})
	return made, err
}

// attachENI attaches an ENI and returns the ID of the attachment.
func (c *Client) attachENI(ctx context.Context, id, instance string, card, device int) (string, error) {
	var attachment string
	err := c.call(ctx, "AttachNetworkInterface", once, func(ctx context.Context) error {
		out, err := c.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: aws.String(id),
			InstanceId:         aws.String(instance),
			NetworkCardIndex:   aws.Int32(int32(card)),
			DeviceIndex:        aws.Int32(int32(device)),
		})
		if err != nil {
			return err
		}
		if attachment = aws.ToString(out.AttachmentId); attachment == "" {
			return errIncomplete
		}
		return nil
	})
	return attachment, withENI(id, err)
}

// deleteOnTermination makes EC2 delete an ENI together with its instance.
func (c *Client) deleteOnTermination(ctx context.Context, id, attachment string) error {
	return c.modifyENI(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: aws.String(id),
		Attachment: &types.NetworkInterfaceAttachmentChanges{
			AttachmentId: aws.String(attachment), DeleteOnTermination: aws.Bool(true),
		},
	})
}

// setGroups replaces an ENI's security groups.
func (c *Client) setGroups(ctx context.Context, id string, groups []string) error {
	return c.modifyENI(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: aws.String(id), Groups: groups})
}

// modifyENI changes an attribute of an ENI.
func (c *Client) modifyENI(ctx context.Context, in *ec2.ModifyNetworkInterfaceAttributeInput) error {
	return withENI(aws.ToString(in.NetworkInterfaceId), c.call(ctx, "ModifyNetworkInterfaceAttribute", repeatable, func(ctx context.Context) error {
		_, err := c.ec2.ModifyNetworkInterfaceAttribute(ctx, in)
		return err
	}))
}

// detachENI starts to detach an ENI. EC2 takes some seconds to finish.
func (c *Client) detachENI(ctx context.Context, attachment string, allowed condition) error {
	return c.callIf(ctx, "DetachNetworkInterface", once, allowed, func(ctx context.Context) error {
		_, err := c.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: aws.String(attachment)})
		return err
	})
}

// deleteENI deletes an ENI that is not attached.
func (c *Client) deleteENI(ctx context.Context, id string, allowed condition) error {
	return withENI(id, c.callIf(ctx, "DeleteNetworkInterface", once, allowed, func(ctx context.Context) error {
		_, err := c.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: aws.String(id)})
		return err
	}))
}

// assign assigns the prefixes or the single addresses of an attempt to an ENI and
// returns the new blocks.
func (c *Client) assign(ctx context.Context, id string, f Family, a attempt) ([]netip.Prefix, error) {
	if f == IPv6 {
		return c.assign6(ctx, id, a)
	}
	in := &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: aws.String(id)}
	if a.Prefixes > 0 {
		in.Ipv4PrefixCount = count(a.Prefixes)
	} else {
		in.SecondaryPrivateIpAddressCount = count(a.Singles)
	}
	var got []netip.Prefix
	err := c.call(ctx, "AssignPrivateIpAddresses", once, func(ctx context.Context) error {
		out, err := c.ec2.AssignPrivateIpAddresses(ctx, in)
		if err != nil {
			return err
		}
		for _, a := range out.AssignedPrivateIpAddresses {
			got = appendBlock(got, a.PrivateIpAddress)
		}
		for _, p := range out.AssignedIpv4Prefixes {
			got = appendBlock(got, p.Ipv4Prefix)
		}
		return notEmpty(got)
	})
	return got, withENI(id, err)
}

// assign6 is assign for IPv6.
func (c *Client) assign6(ctx context.Context, id string, a attempt) ([]netip.Prefix, error) {
	in := &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: aws.String(id)}
	if a.Prefixes > 0 {
		in.Ipv6PrefixCount = count(a.Prefixes)
	} else {
		in.Ipv6AddressCount = count(a.Singles)
	}
	var got []netip.Prefix
	err := c.call(ctx, "AssignIpv6Addresses", once, func(ctx context.Context) error {
		out, err := c.ec2.AssignIpv6Addresses(ctx, in)
		if err != nil {
			return err
		}
		for _, s := range slices.Concat(out.AssignedIpv6Addresses, out.AssignedIpv6Prefixes) {
			got = appendBlock(got, &s)
		}
		return notEmpty(got)
	})
	return got, withENI(id, err)
}

// notEmpty returns an error if an assign call returned no block.
func notEmpty(got []netip.Prefix) error {
	if len(got) == 0 {
		return errIncomplete
	}
	return nil
}

// unassign unassigns blocks from an ENI. They must be of one family, and all single
// addresses or all prefixes.
func (c *Client) unassign(ctx context.Context, id string, blocks []netip.Prefix, allowed condition) error {
	names := make([]string, len(blocks))
	for i, b := range blocks {
		names[i] = b.String()
		if b.IsSingleIP() {
			names[i] = b.Addr().String()
		}
	}
	single := blocks[0].IsSingleIP()
	if FamilyOf(blocks[0].Addr()) == IPv6 {
		in := &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: aws.String(id), Ipv6Prefixes: names}
		if single {
			in.Ipv6Addresses, in.Ipv6Prefixes = names, nil
		}
		return withENI(id, c.callIf(ctx, "UnassignIpv6Addresses", once, allowed, func(ctx context.Context) error {
			_, err := c.ec2.UnassignIpv6Addresses(ctx, in)
			return err
		}))
	}
	in := &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: aws.String(id), Ipv4Prefixes: names}
	if single {
		in.PrivateIpAddresses, in.Ipv4Prefixes = names, nil
	}
	return withENI(id, c.callIf(ctx, "UnassignPrivateIpAddresses", once, allowed, func(ctx context.Context) error {
		_, err := c.ec2.UnassignPrivateIpAddresses(ctx, in)
		return err
	}))
}

// tag sets tags of an ENI.
func (c *Client) tag(ctx context.Context, id string, tags map[string]string) error {
	return c.call(ctx, "CreateTags", repeatable, func(ctx context.Context) error {
		_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: tagsOf(tags)})
		return err
	})
}

// associate associates a branch ENI with a trunk ENI and returns the ID of the
// association.
func (c *Client) associate(ctx context.Context, in Intent) (string, error) {
	var id string
	err := c.call(ctx, "AssociateTrunkInterface", repeatable, func(ctx context.Context) error {
		out, err := c.ec2.AssociateTrunkInterface(ctx, &ec2.AssociateTrunkInterfaceInput{
			TrunkInterfaceId:  aws.String(in.Trunk),
			BranchInterfaceId: aws.String(in.ENI),
			VlanId:            aws.Int32(int32(in.VLANID)),
			ClientToken:       aws.String(in.Token + "-vlan"),
		})
		if err != nil {
			return err
		}
		if out.InterfaceAssociation == nil {
			return errIncomplete
		}
		id = aws.ToString(out.InterfaceAssociation.AssociationId)
		return nil
	})
	return id, err
}

// disassociate disassociates a branch ENI from its trunk.
func (c *Client) disassociate(ctx context.Context, association, token string, allowed condition) error {
	return c.callIf(ctx, "DisassociateTrunkInterface", repeatable, allowed, func(ctx context.Context) error {
		_, err := c.ec2.DisassociateTrunkInterface(ctx, &ec2.DisassociateTrunkInterfaceInput{
			AssociationId: aws.String(association), ClientToken: aws.String(token),
		})
		return err
	})
}

// describeBranches lists the branch ENIs of a trunk. EC2 has no filter for the
// trunk, so it lists the VLAN associations of the account and selects those of the
// trunk.
func (c *Client) describeBranches(ctx context.Context, trunk string) ([]Branch, error) {
	var out []Branch
	in := &ec2.DescribeTrunkInterfaceAssociationsInput{
		Filters:    filtersOf([]filter{{"interface-protocol", []string{"VLAN"}}}),
		MaxResults: aws.Int32(255),
	}
	for {
		var page *ec2.DescribeTrunkInterfaceAssociationsOutput
		err := c.call(ctx, "DescribeTrunkInterfaceAssociations", read, func(ctx context.Context) error {
			out, err := c.ec2.DescribeTrunkInterfaceAssociations(ctx, in)
			page = out
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, a := range page.InterfaceAssociations {
			if aws.ToString(a.TrunkInterfaceId) != trunk {
				continue
			}
			out = append(out, Branch{
				ENI: aws.ToString(a.BranchInterfaceId), Trunk: trunk,
				VLANID: int(aws.ToInt32(a.VlanId)), Association: aws.ToString(a.AssociationId),
			})
		}
		if aws.ToString(page.NextToken) == "" {
			return out, nil
		}
		in.NextToken = page.NextToken
	}
}

// describeSubnets lists the subnets that match a query.
func (c *Client) describeSubnets(ctx context.Context, q SubnetQuery) ([]Subnet, error) {
	var out []Subnet
	in := &ec2.DescribeSubnetsInput{Filters: filtersOf(q.filters()), MaxResults: aws.Int32(pageSize)}
	for {
		var page *ec2.DescribeSubnetsOutput
		err := c.call(ctx, "DescribeSubnets", read, func(ctx context.Context) error {
			out, err := c.ec2.DescribeSubnets(ctx, in)
			page = out
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, s := range page.Subnets {
			out = append(out, subnetOf(s))
		}
		if aws.ToString(page.NextToken) == "" {
			return out, nil
		}
		in.NextToken = page.NextToken
	}
}

// describeGroups returns the VPCs of security groups. IDs that do not exist are missing.
func (c *Client) describeGroups(ctx context.Context, ids []string) (map[string]string, error) {
	out := map[string]string{}
	in := &ec2.DescribeSecurityGroupsInput{Filters: filtersOf([]filter{{"group-id", ids}}), MaxResults: aws.Int32(pageSize)}
	for {
		var page *ec2.DescribeSecurityGroupsOutput
		err := c.call(ctx, "DescribeSecurityGroups", read, func(ctx context.Context) error {
			out, err := c.ec2.DescribeSecurityGroups(ctx, in)
			page = out
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, g := range page.SecurityGroups {
			out[aws.ToString(g.GroupId)] = aws.ToString(g.VpcId)
		}
		if aws.ToString(page.NextToken) == "" {
			return out, nil
		}
		in.NextToken = page.NextToken
	}
}

// filters returns the query as filters of EC2.
func (q SubnetQuery) filters() []filter {
	var out []filter
	if len(q.IDs) > 0 {
		out = append(out, filter{"subnet-id", q.IDs})
	}
	if q.VPCID != "" {
		out = append(out, filter{"vpc-id", []string{q.VPCID}})
	}
	if q.Zone != "" {
		out = append(out, filter{"availability-zone", []string{q.Zone}})
	}
	for _, key := range slices.Sorted(maps.Keys(q.Tags)) {
		if len(q.Tags[key]) == 0 {
			out = append(out, filter{"tag-key", []string{key}})
			continue
		}
		out = append(out, filter{"tag:" + key, q.Tags[key]})
	}
	return out
}

// describeType asks EC2 for the limits of an instance type.
func (c *Client) describeType(ctx context.Context, name string) (instancetype.Limits, error) {
	var out *ec2.DescribeInstanceTypesOutput
	err := c.call(ctx, "DescribeInstanceTypes", read, func(ctx context.Context) error {
		answer, err := c.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{
			InstanceTypes: []types.InstanceType{types.InstanceType(name)},
		})
		out = answer
		return err
	})
	if err != nil {
		return instancetype.Limits{}, err
	}
	if len(out.InstanceTypes) == 0 || out.InstanceTypes[0].NetworkInfo == nil {
		return instancetype.Limits{}, &OpError{Op: "DescribeInstanceTypes", reason: ReasonNotFound}
	}
	return limitsOf(name, out.InstanceTypes[0]), nil
}
