// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Reconcile brings the attributes of the managed ENIs to what they should be:
// the security groups that the GroupSelector names, and deletion together with
// the instance. It compares with what EC2 said at the last Discover, makes no
// call for what is equal, and reports how many calls it made. It leaves the
// primary ENI's own attributes alone.
func (m *Manager) Reconcile(ctx context.Context) (changes int, err error) {
	if err := m.permit("reconcile", "", false); err != nil {
		return 0, err
	}
	if err := m.discovered(ctx); err != nil {
		return 0, err
	}
	var errs []error
	inv := m.Inventory()
	for _, e := range inv.ENIs {
		if e.Primary || !e.ForPods() || e.Attachment == "" {
			continue
		}
		if groups := slices.Sorted(slices.Values(m.cfg.Groups.Groups(inv.Instance, e.SubnetID, e.Kind))); len(groups) > 0 && !slices.Equal(groups, e.Groups) {
			changes++
			errs = append(errs, m.setGroups(ctx, e.ID, groups))
		}
		if !e.DeleteOnTermination {
			changes++
			errs = append(errs, m.setKept(ctx, e))
		}
	}
	return changes, errors.Join(errs...)
}

func (m *Manager) setGroups(ctx context.Context, id string, groups []string) error {
	if err := m.ec2.setGroups(ctx, id, groups); err != nil {
		return err
	}
	m.alter(id, func(e *ENI) { e.Groups = groups })
	return nil
}

func (m *Manager) setKept(ctx context.Context, e ENI) error {
	if err := m.ec2.deleteOnTermination(ctx, e.ID, e.Attachment); err != nil {
		return err
	}
	m.alter(e.ID, func(e *ENI) { e.DeleteOnTermination = true })
	return nil
}

// Adopt makes an attached ENI that someone else created ours, by tagging it.
// From then on it is managed like one that Provision made, to its deletion.
func (m *Manager) Adopt(ctx context.Context, id string) error {
	if err := m.permit("adopt", id, false); err != nil {
		return err
	}
	e, err := m.known(ctx, "adopt", id)
	if err != nil {
		return err
	}
	if e.Managed || e.Tags[TagNoManage] == "true" {
		return nil
	}
	tags := m.tags(Intent{Created: time.Now()})
	if err := m.ec2.tag(ctx, id, tags); err != nil {
		return err
	}
	m.alter(id, func(e *ENI) { e.Managed, e.Tags = true, tags })
	return nil
}
