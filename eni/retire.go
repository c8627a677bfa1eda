// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Retire detaches and deletes an ENI. It returns nil if the ENI is already gone.
// It refuses the primary ENI, ENIs that are not managed, ENIs with an address in
// use, and trunks with branches. Because the deletion is final, Retire asks EC2
// about the ENI first. Without failures it makes three calls.
//
// If EC2 stops answering in between, the operation stays in the journal, the ENI
// is no longer shown as usable, and Resume continues the operation.
func (m *Manager) Retire(ctx context.Context, id string) error {
	if err := m.permit(OpRetire, id, true); err != nil {
		return err
	}
	if err := m.ensureDiscovered(ctx); err != nil {
		return err
	}
	release, ok := m.claim(id)
	if !ok {
		return &OpError{Op: string(OpRetire), ENI: id, reason: ReasonStillInFlight, retryAfter: retryFirst}
	}
	defer release()
	return m.withRest(restKey{op: OpRetire, eni: id}, func() error { return m.retire(ctx, id) })
}

// retire implements Retire. The caller has claimed the ENI.
func (m *Manager) retire(ctx context.Context, id string) error {
	if it, releaseIntent, ok := m.unfinishedRetire(id); ok {
		defer releaseIntent()
		it, err := m.refresh(ctx, it)
		if err == nil {
			_, err = m.drive(ctx, it)
		}
		return err
	}
	e, found, err := m.ec2.describeENI(ctx, id)
	if err != nil {
		return err
	}
	if !found {
		return m.retireNotShown(id)
	}
	if err := m.checkRetire(ctx, e); err != nil {
		return err
	}
	it := m.newIntent(OpRetire)
	it.ENI, it.Card, it.Device, it.Kind, it.Before = id, e.Card, e.Device, e.Kind, e.Blocks()
	it.Attached, it.Attachment, it.Detached = e.Attachment != "", e.Attachment, e.Status == "detaching"
	releaseIntent, _ := m.claim(it.ID)
	defer releaseIntent()
	if err := m.putIntent(ctx, it); err != nil {
		return err
	}
	m.changeENI(id, func(e *ENI) { e.InFlight = true })
	it, err = m.drive(ctx, it)
	if err != nil && !it.Detached && !it.Doubt && !it.Done {
		return errors.Join(err, m.cancelIntent(ctx, it)) // the ENI is unchanged
	}
	return err
}

// unfinishedRetire finds and claims a retirement of the ENI that an earlier call
// left unfinished.
func (m *Manager) unfinishedRetire(id string) (Intent, func(), bool) {
	for _, in := range m.unfinishedIntents() {
		if in.ENI != id || in.Op != OpRetire {
			continue
		}
		if release, ok := m.claim(in.ID); ok {
			return in, release, true
		}
	}
	return Intent{}, nil, false
}

// retireNotShown retires an ENI that EC2 does not show. The ENI is gone, unless it
// is so new that EC2 may not show it yet.
func (m *Manager) retireNotShown(id string) error {
	isNew := m.attachedLately(id)
	m.mu.Lock()
	defer m.mu.Unlock()
	e, known := m.inv.ENI(id)
	if known && (e.Sources&SourceMetadata != 0 || e.Sources == SourceOwn || isNew) {
		return &OpError{Op: string(OpRetire), ENI: id, reason: ReasonNotFound, Err: errors.New("EC2 does not show the ENI, but another source does"), retryAfter: m.cfg.Lag}
	}
	m.inv.ENIs = slices.DeleteFunc(slices.Clone(m.inv.ENIs), func(e ENI) bool { return e.ID == id })
	return nil
}

// checkRetire returns an error if the ENI, as EC2 just described it, must not be
// retired.
func (m *Manager) checkRetire(ctx context.Context, e ENI) error {
	refuse := func(reason Reason, format string, args ...any) error {
		return &OpError{Op: string(OpRetire), ENI: e.ID, reason: reason, Err: fmt.Errorf(format, args...)}
	}
	m.mu.Lock()
	inst := m.inv.Instance
	known, _ := m.inv.ENI(e.ID)
	m.mu.Unlock()
	switch {
	case e.ID == inst.PrimaryENI:
		return refuse(ReasonNotManaged, "it is the primary ENI")
	case known.InFlight:
		return refuse(ReasonStillInFlight, "it is being attached or detached")
	case e.Instance != "" && e.Instance != inst.ID:
		return refuse(ReasonNotManaged, "it is attached to %s", e.Instance)
	case e.ManagedBy != "":
		return refuse(ReasonNotManaged, "%s manages it", e.ManagedBy)
	case e.Tags[TagNoManage] == "true" || e.Tags[TagOwner] != m.cfg.Owner || e.Tags[TagInstance] != inst.ID:
		return refuse(ReasonNotManaged, "its tags do not name this owner and instance")
	}
	if err := m.checkFree(ctx, OpRetire, e.ID, slices.Concat(e.Blocks(), known.Blocks(), known.Doubtful)); err != nil {
		return err
	}
	if e.Kind != KindTrunk {
		return nil
	}
	busy, err := m.hasBranches(ctx, e.ID)
	if err == nil && busy {
		err = refuse(ReasonInUse, "it has branches")
	}
	return err
}

// UnassignInput names the blocks to unassign from an ENI. A single address is
// written as a /32 or /128.
type UnassignInput struct {
	ENI    string
	Blocks []netip.Prefix
}

// Unassign unassigns addresses or prefixes from an ENI, with one call for each
// sort. It ignores blocks that are no longer on the ENI. If one block is in use,
// in doubt, or the ENI's own address, Unassign refuses all of them.
//
// If EC2 stops answering in between, the operation stays in the journal, and the
// next Assign, Unassign or Resume finishes it. Until then the blocks are not shown
// as usable.
func (m *Manager) Unassign(ctx context.Context, in UnassignInput) error {
	if len(in.Blocks) == 0 {
		return nil
	}
	if err := m.permit(OpUnassign, in.ENI, true); err != nil {
		return err
	}
	e, err := m.knownENI(ctx, OpUnassign, in.ENI)
	if err != nil {
		return err
	}
	release, ok := m.claim(in.ENI)
	if !ok {
		return &OpError{Op: string(OpUnassign), ENI: in.ENI, reason: ReasonStillInFlight, retryAfter: retryFirst}
	}
	defer release()
	if err := m.resumeUnassigns(ctx, in.ENI); err != nil {
		return err
	}
	if err := m.checkUnassign(ctx, e, in.Blocks); err != nil {
		return err
	}
	return m.withRest(restKey{op: OpUnassign, eni: in.ENI}, func() error {
		it := m.newIntent(OpUnassign)
		it.ENI, it.Blocks = in.ENI, slices.Clone(in.Blocks)
		releaseIntent, _ := m.claim(it.ID)
		defer releaseIntent()
		if err := m.putIntent(ctx, it); err != nil {
			return err
		}
		return m.unassignBlocks(ctx, it)
	})
}

// checkUnassign returns an error if one of the blocks must not be unassigned.
func (m *Manager) checkUnassign(ctx context.Context, e ENI, blocks []netip.Prefix) error {
	refuse := func(reason Reason, format string, args ...any) error {
		return &OpError{Op: string(OpUnassign), ENI: e.ID, reason: reason, Err: fmt.Errorf(format, args...)}
	}
	if !e.Managed {
		return refuse(ReasonNotManaged, "this node does not manage the ENI")
	}
	if e.InFlight {
		return refuse(ReasonStillInFlight, "it is being attached or detached")
	}
	for _, b := range blocks {
		switch {
		case b.IsSingleIP() && (b.Addr() == e.Addr || b.Addr() == e.Addr6):
			return refuse(ReasonInvalid, "%s is the ENI's own address", b.Addr())
		case slices.Contains(e.Doubtful, b):
			return refuse(ReasonInUse, "the sources disagree about %s", b)
		}
	}
	return m.checkFree(ctx, OpUnassign, e.ID, blocks)
}

// resumeUnassigns continues the unfinished unassigns of the ENI.
func (m *Manager) resumeUnassigns(ctx context.Context, id string) error {
	for _, it := range m.unfinishedIntents() {
		if it.Op != OpUnassign || it.ENI != id {
			continue
		}
		release, ok := m.claim(it.ID)
		if !ok {
			continue
		}
		err := m.resume(ctx, it)
		release()
		if err != nil && !errors.Is(err, ErrMode) {
			return err
		}
	}
	return nil
}

// unassignBlocks makes the calls of an unassign intent, one for each sort of
// block, and completes it. It first removes the blocks from the inventory, so that
// they are not shown as usable, and restores those that EC2 refuses to unassign.
func (m *Manager) unassignBlocks(ctx context.Context, it Intent) error {
	m.changeENI(it.ENI, func(e *ENI) {
		for _, b := range it.Blocks {
			e.removeBlock(b)
		}
	})
	var off []netip.Prefix
	for _, group := range groupByCall(it.Blocks) {
		done, err := m.unassignGroup(ctx, it.ENI, group)
		off = append(off, done...)
		switch {
		case err == nil:
		case lostAnswer(err) || it.Doubt:
			return err // unfinished: Resume unassigns the blocks that are not in use then
		default:
			return errors.Join(err, m.completeUnassign(ctx, it, off))
		}
	}
	return m.completeUnassign(ctx, it, off)
}

// completeUnassign completes an unassign intent. off are the blocks that are no
// longer on the ENI.
func (m *Manager) completeUnassign(ctx context.Context, it Intent, off []netip.Prefix) error {
	m.changeENI(it.ENI, func(e *ENI) {
		for _, b := range it.Blocks {
			if !slices.Contains(off, b) {
				e.addBlock(b)
			}
		}
	})
	if len(off) == 0 {
		return m.removeIntent(ctx, it.ID)
	}
	m.mu.Lock()
	for _, f := range []Family{IPv4, IPv6} {
		delete(m.slotRefusals, slotKey{it.ENI, f})
	}
	m.mu.Unlock()
	it.Blocks, it.Done, it.Changed = off, true, time.Now()
	return m.putIntent(ctx, it)
}

// unassignGroup unassigns blocks of one sort and returns those that are no longer
// on the ENI. EC2 refuses the whole call if one of them is not on the ENI. Then
// unassignGroup makes one call for each block. After any other refusal, and after one
// of a single block, it asks EC2 which of the blocks the ENI has.
func (m *Manager) unassignGroup(ctx context.Context, id string, group []netip.Prefix) (off []netip.Prefix, err error) {
	err = m.unassignWithRetry(ctx, id, group)
	switch {
	case err == nil:
		return group, nil
	case lostAnswer(err) || !mustLook(err):
		return nil, err
	case !blocksMissing(err) || len(group) == 1:
		return m.afterUnassignRefusal(ctx, id, group, err)
	}
	for _, b := range group {
		done, err := m.unassignGroup(ctx, id, []netip.Prefix{b})
		off = append(off, done...)
		var op *OpError
		if errors.As(err, &op) {
			op.lost = true // some of the blocks may be unassigned
		}
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

// blocksMissing reports whether EC2 refused an unassign call because one of the
// blocks is not on the ENI.
func blocksMissing(err error) bool {
	var op *OpError
	return errors.As(err, &op) && op.reason == ReasonNotFound && op.Code == "InvalidParameterValue"
}

// afterUnassignRefusal handles an unassign call that EC2 refused. It returns the blocks that EC2 does not show on the ENI, and
// the refusal if there are others. A block that this node has just assigned counts
// as present, because EC2 may not show it yet.
func (m *Manager) afterUnassignRefusal(ctx context.Context, id string, group []netip.Prefix, refused error) (off []netip.Prefix, err error) {
	var op *OpError
	if !errors.As(refused, &op) {
		return nil, refused
	}
	now, found, err := m.ec2.describeENI(ctx, id)
	if err != nil {
		op.lost = true // the outcome is not known, so the operation stays in the journal
		return nil, refused
	}
	for _, b := range group {
		if !hasBlock(&now, b) && !m.assignedLately(id, b) {
			off = append(off, b)
		}
	}
	if len(off) == len(group) {
		return group, nil
	}
	// EC2 shows none of the remaining blocks, or does not know them yet.
	op.lost = !found || op.reason == ReasonNotFound || op.reason == ReasonInUse
	return off, refused
}

// assignedLately reports whether this node assigned the block so lately that EC2
// may not know it yet.
func (m *Manager) assignedLately(id string, b netip.Prefix) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var recent []Intent
	for _, in := range m.intents {
		if in.ENI == id && in.Done {
			recent = append(recent, in)
		}
	}
	ev := evidenceOf(recent)[id]
	if ev == nil {
		return false
	}
	c, ok := ev.changes[b]
	return ok && !c.removed && time.Since(c.at) < m.cfg.Lag
}

// unassignWithRetry unassigns blocks of one sort, and repeats the call if its
// answer is lost: unassigning twice does no harm. After a lost answer only success
// or a definite refusal ends the retries early.
func (m *Manager) unassignWithRetry(ctx context.Context, id string, group []netip.Prefix) error {
	var lost error
	for try := 0; ; try++ {
		err := m.ec2.unassign(ctx, id, group, m.ifFree(OpUnassign, id, group))
		if lostAnswer(err) {
			lost = err
		}
		reason := reasonOf(err)
		switch {
		case lost == nil, err == nil, reason == ReasonInvalid, reason == ReasonNotFound:
			return err
		case try+1 >= 3 || m.pause(ctx, try) != nil:
			return lost
		}
	}
}

// groupByCall groups blocks that fit into one call: those of the same family that
// are all single addresses or all prefixes.
func groupByCall(blocks []netip.Prefix) [][]netip.Prefix {
	var out [4][]netip.Prefix
	for _, b := range blocks {
		i := 0
		if FamilyOf(b.Addr()) == IPv6 {
			i = 2
		}
		if !b.IsSingleIP() {
			i++
		}
		out[i] = append(out[i], b)
	}
	return slices.DeleteFunc(out[:], func(g []netip.Prefix) bool { return len(g) == 0 })
}
