// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Branch is a branch ENI as joined to its trunk.
type Branch struct {
	ENI, Trunk  string
	VLANID      int
	Association string
}

// BranchInput describes a branch ENI to make.
type BranchInput struct {
	// Trunk is the trunk ENI's ID.
	Trunk string
	// Subnet is the branch's subnet. Optional; default the trunk's.
	Subnet string
	// Groups are its security groups. Optional; default what the GroupSelector
	// says for a KindBranch.
	Groups []string
}

// vlanMost is the highest VLAN ID that 802.1Q has.
const vlanMost = 4094

// freeVLAN is the lowest VLAN ID that is not used; 0 if there is none.
func freeVLAN(used map[int]bool) int {
	for id := 1; id <= vlanMost; id++ {
		if !used[id] {
			return id
		}
	}
	return 0
}

// Branches lists the branch ENIs of a trunk, those that cool included.
func (m *Manager) Branches(ctx context.Context, trunk string) ([]Branch, error) {
	return m.ec2.describeBranches(ctx, trunk)
}

// CreateBranch makes a branch ENI and joins it to a trunk under the lowest free
// VLAN ID. A VLAN ID whose branch still cools is not free. It returns the ENI
// as created, and how it is joined. A branch that a later Resume finishes is
// nobody's: compare Branches with the pods there are.
func (m *Manager) CreateBranch(ctx context.Context, in BranchInput) (ENI, Branch, error) {
	if err := m.permit(OpBranch, in.Trunk, false); err != nil {
		return ENI{}, Branch{}, err
	}
	trunk, err := m.known(ctx, OpBranch, in.Trunk)
	if err != nil {
		return ENI{}, Branch{}, err
	}
	if trunk.Kind != KindTrunk || !trunk.Managed {
		return ENI{}, Branch{}, &OpError{Op: string(OpBranch), ENI: in.Trunk, Why: ReasonNotManaged, Err: errors.New("not a trunk of ours")}
	}
	it := m.start(OpBranch)
	it.Kind, it.Trunk, it.Subnet = KindInterface, in.Trunk, cmp.Or(in.Subnet, trunk.SubnetID)
	if it.Groups = in.Groups; it.Groups == nil {
		it.Groups = m.groupsFor(it.Subnet, KindBranch)
	}
	it.Token, it.Created = m.cfg.NewToken(), it.Start.Truncate(time.Second)
	if it.VLANID, err = m.chooseVLAN(ctx, it); err != nil {
		return ENI{}, Branch{}, err
	}
	release, _ := m.hold(it.ID)
	defer release()
	if it, err = m.createOnce(ctx, it, false); err != nil && it.Token == "" {
		return ENI{}, Branch{}, errors.Join(err, m.forget(ctx, it.ID))
	} else if err != nil {
		return ENI{}, Branch{}, err
	}
	if it, err = m.drive(ctx, it); err != nil {
		return ENI{}, Branch{}, err
	}
	return it.Made.clone(), Branch{ENI: it.ENI, Trunk: it.Trunk, VLANID: it.VLANID, Association: it.Association}, nil
}

// chooseVLAN finds a VLAN ID of the trunk that is free, and claims it by putting
// the intent among the open ones. EC2 is asked once for each trunk.
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
		return 0, &OpError{Op: string(OpBranch), ENI: it.Trunk, Why: ReasonStillInFlight, After: patienceFirst}
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
			Op: string(OpBranch), ENI: it.Trunk, Why: ReasonENILimit, Err: fmt.Errorf("%d of %d branches", len(used), limits.Branches),
		}
	}
	m.intents[it.ID] = it
	return it.VLANID, nil
}

// listVLANs makes sure that the VLAN IDs of a trunk are known.
func (m *Manager) listVLANs(ctx context.Context, trunk string) error {
	m.mu.Lock()
	known := m.vlans[trunk] != nil
	m.mu.Unlock()
	if known {
		return nil
	}
	joined, err := m.ec2.describeBranches(ctx, trunk)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vlans[trunk] = map[int]bool{}
	for _, b := range joined {
		m.vlans[trunk][b.VLANID] = true
	}
	return nil
}

// noteVLAN keeps the VLAN IDs of a trunk up to date.
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

// carries says whether a trunk has branches, or may have: by EC2, or by the
// journal, which knows of those that EC2 does not show yet.
func (m *Manager) carries(ctx context.Context, trunk string) (bool, error) {
	joined, err := m.ec2.describeBranches(ctx, trunk)
	if err != nil || len(joined) > 0 {
		return len(joined) > 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	left := map[string]bool{}
	for _, in := range m.intents {
		left[in.ENI] = left[in.ENI] || in.Op == OpRetireBranch && in.Done
	}
	for _, in := range m.intents {
		if in.Trunk == trunk && !left[in.ENI] && (!in.Done || !in.Undo) {
			return true, nil
		}
	}
	return false, nil
}

// RetireBranch sets a branch ENI aside. It keeps its VLAN ID and addresses for
// Config.BranchCooldown, so that late packets reach nobody else; the first
// Resume after that takes it from its trunk and deletes it.
func (m *Manager) RetireBranch(ctx context.Context, b Branch) error {
	if err := m.permit(OpRetireBranch, b.ENI, true); err != nil {
		return err
	}
	if err := m.discovered(ctx); err != nil {
		return err
	}
	for _, in := range m.openIntents() {
		if in.Op == OpRetireBranch && in.ENI == b.ENI {
			return nil
		}
	}
	e, there, err := m.ec2.describeENI(ctx, b.ENI)
	if err != nil || !there {
		return err
	}
	if e.Tags[TagOwner] != m.cfg.Owner || e.Tags[TagInstance] != m.instance() || e.Tags[TagNoManage] == "true" {
		return &OpError{Op: string(OpRetireBranch), ENI: b.ENI, Why: ReasonNotManaged}
	}
	it := m.start(OpRetireBranch)
	it.ENI, it.Trunk, it.VLANID, it.Association = b.ENI, b.Trunk, b.VLANID, b.Association
	it.NotBefore, it.Before = it.Start.Add(m.cfg.BranchCooldown), branchBlocks(e)
	return m.put(ctx, it)
}

// associate joins the branch to its trunk.
func (m *Manager) associate(ctx context.Context, it Intent) (Intent, error) {
	id, err := m.ec2.associate(ctx, it)
	switch {
	case err == nil:
		it.Association, it.Changed = id, time.Now()
		m.noteVLAN(it, true)
	case lostAnswer(err), reasonOf(err) == ReasonThrottled:
	case reasonOf(err) == ReasonNotFound && !m.settled(it):
		// just created, it has not reached all of EC2 yet
		if perr := m.pause(ctx, 0); perr == nil {
			return it, nil
		}
	default:
		m.mu.Lock()
		delete(m.vlans, it.Trunk) // what was known of it may be wrong
		m.mu.Unlock()
		it = it.turn(reasonOf(err))
	}
	return it, err
}

// joined looks for an association that was made although the answer was lost.
func (m *Manager) joined(ctx context.Context, it Intent) Intent {
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

// disassociate takes the branch from its trunk.
func (m *Manager) disassociate(ctx context.Context, it Intent) (Intent, error) {
	err := m.ec2.disassociate(ctx, it.Association, it.ID, m.whileUnused(it))
	if err != nil && reasonOf(err) != ReasonNotFound {
		return it, err
	}
	it.Association, it.Changed = "", time.Now()
	m.noteVLAN(it, false)
	return it, nil
}
