// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"fmt"
	"slices"
)

// placement is the part of the configuration that SetPlacement and SetMaxENIs change.
type placement struct {
	subnets SubnetSelector
	groups  GroupSelector
	maxENIs int
}

// SetMaxENIs changes Config.MaxENIs. ENIs beyond a lower maximum stay. It makes no calls.
func (m *Manager) SetMaxENIs(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.placement.maxENIs = n
}

// SetPlacement changes Config.Subnets and Config.Groups; nil means their defaults. ENIs
// that exist, or that are being created, stay in their subnets; Reconcile changes their
// security groups. It makes no calls, so it does not find out whether the subnets and
// groups exist, see [Manager.CheckPlacement].
func (m *Manager) SetPlacement(subnets SubnetSelector, groups GroupSelector) {
	c := Config{Subnets: subnets, Groups: groups}.withDefaults()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.placement.subnets, m.placement.groups = c.Subnets, c.Groups
}

// CheckPlacement returns an error if no new ENI could be created with the given
// selectors: EC2 knows no subnet that they select in the zone of the instance, or the
// security groups for such a subnet do not exist in the instance's VPC. Nil means the
// defaults of Config. It changes nothing. Selectors other than the defaults need
// ec2:DescribeSubnets and ec2:DescribeSecurityGroups.
func (m *Manager) CheckPlacement(ctx context.Context, subnets SubnetSelector, groups GroupSelector) error {
	c := Config{Subnets: subnets, Groups: groups}.withDefaults()
	if err := checkGroups(c.Groups); err != nil {
		return fmt.Errorf("eni: %w", err)
	}
	if err := m.ensureDiscovered(ctx); err != nil {
		return err
	}
	inst := m.Inventory().Instance
	known := []Subnet{inst.PrimarySubnet}
	if q, ask := c.Subnets.Query(inst); ask {
		var err error
		if known, err = m.ec2.describeSubnets(ctx, q); err != nil {
			return err
		}
	}
	selected, err := orderSubnets(inst, c.Subnets, known)
	if err != nil {
		return err
	}
	var ids []string
	for _, subnet := range selected {
		ids = append(ids, c.Groups.Groups(inst, subnet, KindInterface)...)
	}
	slices.Sort(ids)
	return m.checkGroupsExist(ctx, inst, slices.Compact(ids))
}

// checkGroupsExist returns an error if a security group does not exist in the VPC of the
// instance. Those of the primary ENI exist.
func (m *Manager) checkGroupsExist(ctx context.Context, inst Instance, ids []string) error {
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(inst.Groups, id) })
	if len(ids) == 0 {
		return nil
	}
	vpcs, err := m.ec2.describeGroups(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		refused := &OpError{Op: "DescribeSecurityGroups", reason: ReasonNotFound}
		switch vpc, ok := vpcs[id]; {
		case !ok:
			refused.Err = fmt.Errorf("security group %s does not exist", id)
			return refused
		case vpc != inst.VPCID:
			refused.Err = fmt.Errorf("security group %s is of %s, want one of the instance's VPC %s", id, vpc, inst.VPCID)
			return refused
		}
	}
	return nil
}
