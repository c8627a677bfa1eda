// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Operations on routes, which need no journal: each can be repeated.
const (
	opRoute       Op = "route"
	opSourceCheck Op = "source-check"
)

// RoutePrefix has the VPC send packets for a prefix to the primary ENI, as kubenet needs it:
// it switches off the source/destination check of that ENI, and creates a route to the ENI in
// each of the VPC route tables, which are given by ID. It replaces a blackhole. It refuses,
// with ErrNotManaged, to replace a route with another target, because the prefix may be that
// of another node. A repeated call needs one call to EC2, for all tables.
//
// It needs ec2:ModifyNetworkInterfaceAttribute, ec2:DescribeRouteTables, ec2:CreateRoute and
// ec2:ReplaceRoute.
//
// https://docs.aws.amazon.com/vpc/latest/userguide/VPC_Route_Tables.html#route-tables-priority
func (m *Manager) RoutePrefix(ctx context.Context, prefix netip.Prefix, tables []string) error {
	if err := m.permit(opRoute, "", false); err != nil {
		return err
	}
	if err := m.ensureDiscovered(ctx); err != nil {
		return err
	}
	primary := m.Inventory().Instance.PrimaryENI
	if err := m.withRest(restKey{op: opSourceCheck, eni: primary}, func() error { return m.uncheckSource(ctx, primary) }); err != nil {
		return err
	}
	if len(tables) == 0 {
		return nil
	}
	return m.withRest(restKey{op: opRoute}, func() error { return m.routePrefix(ctx, primary, prefix, tables) })
}

// uncheckSource switches off the source/destination check of the primary ENI, once.
func (m *Manager) uncheckSource(ctx context.Context, primary string) error {
	m.mu.Lock()
	done := m.sourceUnchecked
	m.mu.Unlock()
	if done {
		return nil
	}
	err := m.ec2.modifyENI(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: aws.String(primary), SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sourceUnchecked = true
	return nil
}

// routePrefix creates or replaces the routes that are not as they should be.
func (m *Manager) routePrefix(ctx context.Context, primary string, prefix netip.Prefix, tables []string) error {
	found, err := m.ec2.describeRoutes(ctx, prefix, tables)
	if err != nil {
		return err
	}
	var errs []error
	for _, table := range tables {
		have, ok := found[table]
		switch {
		case !ok:
			errs = append(errs, &OpError{Op: string(opRoute), reason: ReasonNotFound, Err: fmt.Errorf("VPC route table %s", table)})
		case have == (vpcRoute{}):
			errs = append(errs, m.ec2.createRoute(ctx, table, prefix, primary))
		case have.eni == primary:
		case have.blackhole:
			errs = append(errs, m.ec2.replaceRoute(ctx, table, prefix, primary))
		default:
			errs = append(errs, &OpError{
				Op: string(opRoute), reason: ReasonNotManaged,
				Err: fmt.Errorf("VPC route table %s has a route for %v to %s; check that no other node has the prefix", table, prefix, have.target),
			})
		}
	}
	return errors.Join(errs...)
}

// vpcRoute is a route of a VPC route table to one prefix. The zero value means that the
// table has none.
type vpcRoute struct {
	// eni is the ENI to which it leads, and target what it leads to in words.
	eni, target string
	blackhole   bool
}

// describeRoutes returns the routes to a prefix by route table.
func (c *Client) describeRoutes(ctx context.Context, prefix netip.Prefix, tables []string) (map[string]vpcRoute, error) {
	found := map[string]vpcRoute{}
	err := c.call(ctx, "DescribeRouteTables", read, func(ctx context.Context) error {
		out, err := c.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: slices.Compact(slices.Sorted(slices.Values(tables)))})
		if err != nil {
			return err
		}
		for _, t := range out.RouteTables {
			found[aws.ToString(t.RouteTableId)] = vpcRoute{}
			for _, r := range t.Routes {
				if aws.ToString(r.DestinationCidrBlock) == prefix.String() || aws.ToString(r.DestinationIpv6CidrBlock) == prefix.String() {
					found[aws.ToString(t.RouteTableId)] = vpcRouteOf(r)
				}
			}
		}
		return nil
	})
	return found, err
}

func vpcRouteOf(r types.Route) vpcRoute {
	out := vpcRoute{eni: aws.ToString(r.NetworkInterfaceId), target: "another target", blackhole: r.State == types.RouteStateBlackhole}
	for _, id := range []*string{r.NetworkInterfaceId, r.GatewayId, r.NatGatewayId, r.TransitGatewayId, r.VpcPeeringConnectionId, r.InstanceId} {
		if aws.ToString(id) != "" {
			out.target = *id
			break
		}
	}
	return out
}

// destination returns the parameters of a route's destination.
func destination(p netip.Prefix) (v4, v6 *string) {
	if FamilyOf(p.Addr()) == IPv6 {
		return nil, aws.String(p.String())
	}
	return aws.String(p.String()), nil
}

// createRoute creates a route to an ENI.
func (c *Client) createRoute(ctx context.Context, table string, prefix netip.Prefix, id string) error {
	v4, v6 := destination(prefix)
	return withENI(id, c.call(ctx, "CreateRoute", once, func(ctx context.Context) error {
		_, err := c.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{
			RouteTableId: aws.String(table), DestinationCidrBlock: v4, DestinationIpv6CidrBlock: v6, NetworkInterfaceId: aws.String(id),
		})
		return err
	}))
}

// replaceRoute makes an existing route lead to an ENI.
func (c *Client) replaceRoute(ctx context.Context, table string, prefix netip.Prefix, id string) error {
	v4, v6 := destination(prefix)
	return withENI(id, c.call(ctx, "ReplaceRoute", repeatable, func(ctx context.Context) error {
		_, err := c.ec2.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{
			RouteTableId: aws.String(table), DestinationCidrBlock: v4, DestinationIpv6CidrBlock: v6, NetworkInterfaceId: aws.String(id),
		})
		return err
	}))
}
