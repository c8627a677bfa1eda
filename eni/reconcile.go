// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Reconcile corrects the attributes of the managed ENIs: their security groups,
// which the GroupSelector determines, and delete-on-termination. It compares them
// with EC2's answer at the last Discover, makes calls only for differences, and
// returns the number of calls. It does not change the attributes of the primary
// ENI.
func (m *Manager) Reconcile(ctx context.Context) (changes int, err error) {
	if err := m.permit("reconcile", "", false); err != nil {
		return 0, err
	}
	if err := m.ensureDiscovered(ctx); err != nil {
		return 0, err
	}
	var errs []error
	inv := m.Inventory()
	m.mu.Lock()
	selector := m.placement.groups
	m.mu.Unlock()
	for _, e := range inv.ENIs {
		if e.Primary || !e.ForPods() || e.Attachment == "" {
			continue
		}
		groups := slices.Sorted(slices.Values(selector.Groups(inv.Instance, e.SubnetID, e.Kind)))
		if len(groups) > 0 && !slices.Equal(groups, e.Groups) {
			changes++
			errs = append(errs, m.withRest(restKey{op: "groups", eni: e.ID}, func() error {
				return m.setGroups(ctx, e.ID, groups)
			}))
		}
		if !e.DeleteOnTermination {
			changes++
			errs = append(errs, m.withRest(restKey{op: "delete-on-termination", eni: e.ID}, func() error {
				return m.repairDeleteOnTermination(ctx, e)
			}))
		}
	}
	return changes, errors.Join(errs...)
}

// setGroups replaces the security groups of an ENI.
func (m *Manager) setGroups(ctx context.Context, id string, groups []string) error {
	if err := m.ec2.setGroups(ctx, id, groups); err != nil {
		return err
	}
	m.changeENI(id, func(e *ENI) { e.Groups = groups })
	return nil
}

// repairDeleteOnTermination sets the attribute on an ENI that is already attached.
func (m *Manager) repairDeleteOnTermination(ctx context.Context, e ENI) error {
	if err := m.ec2.deleteOnTermination(ctx, e.ID, e.Attachment); err != nil {
		return err
	}
	m.changeENI(e.ID, func(e *ENI) { e.DeleteOnTermination = true })
	return nil
}

// Disown gives a managed ENI to another program: it sets the owner tag to that program's
// name. From then on the Manager treats it as foreign, until Adopt. The other tags stay. The
// primary ENI, which has no owner tag, stays as it is.
func (m *Manager) Disown(ctx context.Context, id, owner string) error {
	if err := m.permit("disown", id, false); err != nil {
		return err
	}
	e, err := m.attachedOrBranch(ctx, "disown", id)
	if err != nil {
		return err
	}
	if !e.Managed || e.Primary {
		return nil
	}
	tags := map[string]string{TagOwner: owner}
	if err := m.ec2.tag(ctx, id, tags); err != nil {
		return err
	}
	m.changeENI(id, func(e *ENI) {
		e.Managed, e.Tags = false, maps.Clone(e.Tags)
		maps.Copy(e.Tags, tags)
	})
	return nil
}

// Adopt tags an attached ENI of another program, or a branch ENI, as managed by this node.
// From then on the Manager treats it like an ENI that Provision or CreateBranch created, up to
// its deletion.
// It ignores an ENI that is tagged with TagNoManage, or that a service manages.
func (m *Manager) Adopt(ctx context.Context, id string) error {
	if err := m.permit("adopt", id, false); err != nil {
		return err
	}
	e, err := m.attachedOrBranch(ctx, "adopt", id)
	if err != nil {
		return err
	}
	if e.Managed || e.ManagedBy != "" || e.Tags[TagNoManage] == "true" {
		return nil
	}
	tags := m.tags(Intent{Created: time.Now()})
	if err := m.ec2.tag(ctx, id, tags); err != nil {
		return err
	}
	m.changeENI(id, func(e *ENI) { e.Managed, e.Tags = true, tags })
	return nil
}

// attachedOrBranch returns an attached ENI, or asks EC2 for one that is not attached: a branch
// ENI, which the inventory lacks.
func (m *Manager) attachedOrBranch(ctx context.Context, op Op, id string) (ENI, error) {
	e, err := m.knownENI(ctx, op, id)
	if !errors.Is(err, ErrNotFound) {
		return e, err
	}
	e, found, err := m.ec2.describeENI(ctx, id)
	if err == nil && !found {
		err = &OpError{Op: string(op), ENI: id, reason: ReasonNotFound}
	}
	e.Managed = e.Tags[TagOwner] == m.cfg.Owner && e.Tags[TagInstance] == m.instance()
	return e, err
}
