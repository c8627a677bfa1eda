// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Branch is the association of a branch ENI with its trunk.
type Branch struct {
	ENI, Trunk  string
	VLANID      int
	Association string
}

// BranchInput describes the branch ENI to create.
type BranchInput struct {
	// Trunk is the trunk ENI's ID.
	Trunk string
	// Subnet is the branch's subnet. Optional; default the trunk's subnet.
	Subnet string
	// Groups are the branch's security groups. Optional; default the groups that
	// the GroupSelector returns for KindBranch.
	Groups []string
	// Addrs6 is the number of IPv6 addresses. The branch has one IPv4 address in any
	// case, unless its subnet has none.
	Addrs6 int
}

// maxVLANID is the highest VLAN ID of 802.1Q.
const maxVLANID = 4094

// freeVLAN returns the lowest VLAN ID that is not in use, or 0 if there is none.
func freeVLAN(used map[int]bool) int {
	for id := 1; id <= maxVLANID; id++ {
		if !used[id] {
			return id
		}
	}
	return 0
}

// Branches lists the branch ENIs of a trunk, including those that are cooling.
func (m *Manager) Branches(ctx context.Context, trunk string) ([]Branch, error) {
	return m.ec2.describeBranches(ctx, trunk)
}

// BranchENI returns a branch ENI as EC2 describes it, with the prefixes of the trunk's subnets
// if it is in the same subnet. It returns ErrNotFound if EC2 does not show it.
func (m *Manager) BranchENI(ctx context.Context, b Branch) (ENI, error) {
	trunk, err := m.knownENI(ctx, OpBranch, b.Trunk)
	if err != nil {
		return ENI{}, err
	}
	e, err := m.attachedOrBranch(ctx, OpBranch, b.ENI)
	if err == nil && e.SubnetID == trunk.SubnetID {
		e.Subnet, e.Subnet6 = trunk.Subnet, trunk.Subnet6
	}
	return e, err
}

// CreateBranch creates a branch ENI and associates it with a trunk under the
// lowest free VLAN ID. The VLAN ID of a branch that is still cooling is not free.
// CreateBranch returns the ENI as created, and its association.
//
// If it fails and a later Resume finishes the branch, no pod has that branch. The
// caller finds such branches by comparing Branches with its pods.
func (m *Manager) CreateBranch(ctx context.Context, in BranchInput) (ENI, Branch, error) {
	if err := m.permit(OpBranch, in.Trunk, false); err != nil {
		return ENI{}, Branch{}, err
	}
	trunk, err := m.knownENI(ctx, OpBranch, in.Trunk)
	if err != nil {
		return ENI{}, Branch{}, err
	}
	if trunk.Kind != KindTrunk || !trunk.Managed {
		return ENI{}, Branch{}, &OpError{Op: string(OpBranch), ENI: in.Trunk, reason: ReasonNotManaged, Err: errors.New("not a trunk that this node manages")}
	}
	var e ENI
	var b Branch
	err = m.withRest(restKey{op: OpBranch, eni: in.Trunk}, func() (err error) {
		e, b, err = m.createBranch(ctx, in, trunk)
		return err
	})
	return e, b, err
}

// createBranch implements CreateBranch, except for the checks at its start.
func (m *Manager) createBranch(ctx context.Context, in BranchInput, trunk ENI) (_ ENI, _ Branch, err error) {
	it := m.newIntent(OpBranch)
	it.Kind, it.Trunk, it.Subnet = KindInterface, in.Trunk, cmp.Or(in.Subnet, trunk.SubnetID)
	it.Addrs6 = in.Addrs6
	if it.Groups = in.Groups; it.Groups == nil {
		it.Groups = m.groupsFor(it.Subnet, KindBranch)
	}
	it.Token, it.Created = m.cfg.NewToken(), it.Start.Truncate(time.Second)
	if it.VLANID, err = m.chooseVLAN(ctx, it); err != nil {
		return ENI{}, Branch{}, err
	}
	release, _ := m.claim(it.ID)
	defer release()
	if it, err = m.createOnce(ctx, it, false); err != nil && it.Token == "" {
		return ENI{}, Branch{}, errors.Join(err, m.removeIntent(ctx, it.ID))
	} else if err != nil {
		return ENI{}, Branch{}, err
	}
	if it, err = m.drive(ctx, it); err != nil {
		afterUndo(it, err)
		return ENI{}, Branch{}, err
	}
	return it.Made.clone(), Branch{ENI: it.ENI, Trunk: it.Trunk, VLANID: it.VLANID, Association: it.Association}, nil
}

// chooseVLAN chooses a free VLAN ID of the trunk, and claims it by adding the
// intent to the unfinished ones. It asks EC2 once for each trunk.
func (m *Manager) chooseVLAN(ctx context.Context, it Intent) (int, error) {
	limits, err := m.Limits(ctx)
	if err != nil {
		return 0, err
	}
	if err := m.listVLANs(ctx, it.Trunk); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if trunk, ok := m.inv.ENI(it.Trunk); !ok || trunk.InFlight || m.busy[it.Trunk] {
		return 0, &OpError{Op: string(OpBranch), ENI: it.Trunk, reason: ReasonStillInFlight, retryAfter: retryFirst}
	}
	used := maps.Clone(m.vlans[it.Trunk])
	for _, other := range m.intents {
		if other.Trunk == it.Trunk && !other.Done {
			used[other.VLANID] = true
		}
	}
	it.VLANID = freeVLAN(used)
	if it.VLANID == 0 || len(used) >= limits.Branches {
		return 0, &OpError{
			Op: string(OpBranch), ENI: it.Trunk, reason: ReasonENILimit, Err: fmt.Errorf("%d of %d branches", len(used), limits.Branches),
		}
	}
	m.intents[it.ID] = it
	return it.VLANID, nil
}

// listVLANs asks EC2 for the VLAN IDs of a trunk unless they are known.
func (m *Manager) listVLANs(ctx context.Context, trunk string) error {
	m.mu.Lock()
	known := m.vlans[trunk] != nil
	m.mu.Unlock()
	if known {
		return nil
	}
	branches, err := m.ec2.describeBranches(ctx, trunk)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vlans[trunk] = map[int]bool{}
	for _, b := range branches {
		m.vlans[trunk][b.VLANID] = true
	}
	return nil
}

// noteVLAN records whether the VLAN ID of the intent is now in use on its trunk.
func (m *Manager) noteVLAN(it Intent, used bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := m.vlans[it.Trunk]
	switch {
	case ids == nil:
	case used:
		ids[it.VLANID] = true
	default:
		delete(ids, it.VLANID)
	}
}

// hasBranches reports whether a trunk has branches, or may have. It asks EC2 and
// the journal, which contains branches that EC2 does not show yet.
func (m *Manager) hasBranches(ctx context.Context, trunk string) (bool, error) {
	branches, err := m.ec2.describeBranches(ctx, trunk)
	if err != nil || len(branches) > 0 {
		return len(branches) > 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	retired := map[string]bool{}
	for _, in := range m.intents {
		retired[in.ENI] = retired[in.ENI] || in.Op == OpRetireBranch && in.Done
	}
	for _, in := range m.intents {
		if in.Trunk == trunk && !retired[in.ENI] && (!in.Done || !in.Undo) {
			return true, nil
		}
	}
	return false, nil
}

// RetireBranch schedules the deletion of a branch ENI. The branch keeps its VLAN
// ID and addresses for Config.BranchCooldown, so that late packets do not reach
// another pod. The first Resume after that disassociates and deletes it.
func (m *Manager) RetireBranch(ctx context.Context, b Branch) error {
	if err := m.permit(OpRetireBranch, b.ENI, true); err != nil {
		return err
	}
	if err := m.ensureDiscovered(ctx); err != nil {
		return err
	}
	for _, in := range m.unfinishedIntents() {
		if in.Op == OpRetireBranch && in.ENI == b.ENI {
			return nil
		}
	}
	e, found, err := m.ec2.describeENI(ctx, b.ENI)
	if err != nil {
		return err
	}
	if !found {
		return m.retireBranchNotShown(b.ENI)
	}
	if e.ManagedBy != "" || e.Tags[TagOwner] != m.cfg.Owner || e.Tags[TagInstance] != m.instance() || e.Tags[TagNoManage] == "true" {
		return &OpError{Op: string(OpRetireBranch), ENI: b.ENI, reason: ReasonNotManaged}
	}
	it := m.newIntent(OpRetireBranch)
	it.ENI, it.Trunk, it.VLANID, it.Association = b.ENI, b.Trunk, b.VLANID, b.Association
	it.NotBefore, it.Before = it.Start.Add(m.cfg.BranchCooldown), branchBlocks(e)
	return m.putIntent(ctx, it)
}

// retireBranchNotShown retires a branch that EC2 does not show. The branch is gone,
// unless this node created it so lately that EC2 may not show it yet.
func (m *Manager) retireBranchNotShown(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range m.intents {
		if left := time.Until(m.lagEndsLocked(in)); in.Op == OpBranch && in.ENI == id && !in.Undo && left > 0 {
			return &OpError{Op: string(OpRetireBranch), ENI: id, reason: ReasonNotFound, Err: errors.New("EC2 does not show the new branch yet"), retryAfter: left}
		}
	}
	return nil
}

// associate associates the branch with its trunk. The branch is new, so not all of
// EC2 may know it yet.
func (m *Manager) associate(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		id, err := m.ec2.associate(ctx, it)
		switch {
		case err == nil:
			it.Association, it.Changed = id, time.Now()
			m.noteVLAN(it, true)
			return it, nil
		case lostAnswer(err), notNow(err):
			return it, err
		case !notFinal(err) || m.lagPassed(it):
			m.mu.Lock()
			delete(m.vlans, it.Trunk) // the known VLAN IDs may be wrong
			m.mu.Unlock()
			return it.undo(reasonOf(err)), err
		}
		if try+1 >= retryAttempts || m.pause(ctx, try) != nil {
			return it, err // the intent stays in the journal
		}
	}
}

// findAssociation asks EC2 for an association that exists although the answer to
// its call was lost.
func (m *Manager) findAssociation(ctx context.Context, it Intent) Intent {
	if it.Trunk == "" {
		return it
	}
	branches, err := m.ec2.describeBranches(ctx, it.Trunk)
	if err != nil {
		return it
	}
	for _, b := range branches {
		if b.ENI == it.ENI {
			it.Association, it.VLANID = b.Association, b.VLANID
		}
	}
	return it
}

// disassociate disassociates the branch from its trunk. A refusal because there is no
// association counts only if EC2 does not list it either.
func (m *Manager) disassociate(ctx context.Context, it Intent) (Intent, error) {
	err := m.ec2.disassociate(ctx, it.Association, it.ID, m.ifUnused(it))
	if reasonOf(err) == ReasonNotFound && !forbidden(err) {
		branches, lookErr := m.ec2.describeBranches(ctx, it.Trunk)
		if lookErr == nil && !slices.ContainsFunc(branches, func(b Branch) bool { return b.ENI == it.ENI }) {
			err = nil
		}
	}
	if err != nil {
		return it, err
	}
	it.Association, it.Changed = "", time.Now()
	m.noteVLAN(it, false)
	return it, nil
}
