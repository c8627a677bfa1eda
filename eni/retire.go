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

// Retire detaches and deletes an ENI. One that is gone already is no error. It
// refuses the primary ENI, ENIs that are not managed, ENIs with an address in
// use, and trunks with branches. EC2 is asked about the ENI first, since this cannot be taken back:
// three calls when nothing goes wrong.
//
// If EC2 stops answering half-way the operation stays in the journal, the ENI
// is not shown as usable any more, and Resume goes on with it.
func (m *Manager) Retire(ctx context.Context, id string) error {
	if err := m.permit(OpRetire, id, true); err != nil {
		return err
	}
	if err := m.discovered(ctx); err != nil {
		return err
	}
	release, ok := m.hold(id)
	if !ok {
		return &OpError{Op: string(OpRetire), ENI: id, Why: ReasonStillInFlight, After: patienceFirst}
	}
	defer release()
	if it, releaseIntent, ok := m.leaving(id); ok {
		defer releaseIntent()
		it, err := m.look(ctx, it)
		if err == nil {
			_, err = m.drive(ctx, it)
		}
		return err
	}
	e, there, err := m.ec2.describeENI(ctx, id)
	if err != nil {
		return err
	}
	if !there {
		return m.retireUnseen(id)
	}
	if err := m.mayRetire(ctx, e); err != nil {
		return err
	}
	it := m.start(OpRetire)
	it.ENI, it.Card, it.Device, it.Kind, it.Before = id, e.Card, e.Device, e.Kind, e.Blocks()
	it.Attached, it.Attachment, it.Detached = e.Attachment != "", e.Attachment, e.Status == "detaching"
	releaseIntent, _ := m.hold(it.ID)
	defer releaseIntent()
	if err := m.put(ctx, it); err != nil {
		return err
	}
	m.alter(id, func(e *ENI) { e.InFlight = true })
	it, err = m.drive(ctx, it)
	if err != nil && !it.Detached && !it.Doubt && !it.Done {
		return errors.Join(err, m.callOff(ctx, it)) // nothing has happened
	}
	return err
}

// leaving finds a retirement of the ENI that an earlier call left open.
func (m *Manager) leaving(id string) (Intent, func(), bool) {
	for _, in := range m.openIntents() {
		if in.ENI != id || in.Op != OpRetire {
			continue
		}
		if release, ok := m.hold(in.ID); ok {
			return in, release, true
		}
	}
	return Intent{}, nil, false
}

// retireUnseen is for an ENI that EC2 does not show: gone, unless it is so new
// that EC2 may not show it yet.
func (m *Manager) retireUnseen(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, known := m.inv.ENI(id)
	if known && e.Sources&SourceMetadata != 0 || known && e.Sources == SourceOwn {
		return &OpError{Op: string(OpRetire), ENI: id, Why: ReasonNotFound, Err: errors.New("EC2 does not show it, others do"), After: m.cfg.Lag}
	}
	m.inv.ENIs = slices.DeleteFunc(slices.Clone(m.inv.ENIs), func(e ENI) bool { return e.ID == id })
	return nil
}

// mayRetire checks an ENI, as EC2 just showed it, against everything that
// forbids its end.
func (m *Manager) mayRetire(ctx context.Context, e ENI) error {
	refuse := func(why Reason, format string, args ...any) error {
		return &OpError{Op: string(OpRetire), ENI: e.ID, Why: why, Err: fmt.Errorf(format, args...)}
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
	case e.Tags[TagNoManage] == "true" || e.Tags[TagOwner] != m.cfg.Owner || e.Tags[TagInstance] != inst.ID:
		return refuse(ReasonNotManaged, "its tags do not say that it is ours")
	}
	if err := m.free(ctx, OpRetire, e.ID, slices.Concat(e.Blocks(), known.Blocks(), known.Doubtful)); err != nil {
		return err
	}
	if e.Kind != KindTrunk {
		return nil
	}
	busy, err := m.carries(ctx, e.ID)
	if err == nil && busy {
		err = refuse(ReasonInUse, "it has branches")
	}
	return err
}

// UnassignInput says what to take off an ENI. Single addresses are given as
// /32 or /128.
type UnassignInput struct {
	ENI    string
	Blocks []netip.Prefix
}

// Unassign takes addresses or prefixes off an ENI: one call for each sort.
// Those that are off already are no error. It refuses all of them if one is in
// use, in doubt, or the ENI's own.
//
// If EC2 stops answering half-way the operation stays in the journal, and the
// next Assign, Unassign or Resume finishes it; until then the blocks are not
// shown as usable.
func (m *Manager) Unassign(ctx context.Context, in UnassignInput) error {
	if len(in.Blocks) == 0 {
		return nil
	}
	if err := m.permit(OpUnassign, in.ENI, true); err != nil {
		return err
	}
	e, err := m.known(ctx, OpUnassign, in.ENI)
	if err != nil {
		return err
	}
	release, ok := m.hold(in.ENI)
	if !ok {
		return &OpError{Op: string(OpUnassign), ENI: in.ENI, Why: ReasonStillInFlight, After: patienceFirst}
	}
	defer release()
	if err := m.releaseLeft(ctx, in.ENI); err != nil {
		return err
	}
	if err := m.mayUnassign(ctx, e, in.Blocks); err != nil {
		return err
	}
	it := m.start(OpUnassign)
	it.ENI, it.Blocks = in.ENI, slices.Clone(in.Blocks)
	releaseIntent, _ := m.hold(it.ID)
	defer releaseIntent()
	if err := m.put(ctx, it); err != nil {
		return err
	}
	return m.takeOff(ctx, it)
}

func (m *Manager) mayUnassign(ctx context.Context, e ENI, blocks []netip.Prefix) error {
	refuse := func(why Reason, format string, args ...any) error {
		return &OpError{Op: string(OpUnassign), ENI: e.ID, Why: why, Err: fmt.Errorf(format, args...)}
	}
	if !e.Managed {
		return refuse(ReasonNotManaged, "nothing is taken off it")
	}
	if e.InFlight {
		return refuse(ReasonStillInFlight, "it is being attached or detached")
	}
	for _, b := range blocks {
		switch {
		case b.IsSingleIP() && (b.Addr() == e.Addr || b.Addr() == e.Addr6):
			return refuse(ReasonInvalid, "%s is the ENI's own address", b.Addr())
		case slices.Contains(e.Doubtful, b):
			return refuse(ReasonInUse, "the sources do not agree on %s", b)
		}
	}
	return m.free(ctx, OpUnassign, e.ID, blocks)
}

// releaseLeft goes on with what an earlier Unassign of the ENI left open.
func (m *Manager) releaseLeft(ctx context.Context, id string) error {
	for _, it := range m.openIntents() {
		if it.Op != OpUnassign || it.ENI != id {
			continue
		}
		release, ok := m.hold(it.ID)
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

// takeOff makes the calls of an unassign intent, one sort of block at a time,
// and closes it. From before the first call the blocks are not shown as usable;
// those that EC2 refused to take off, which stay on the ENI, are again then.
func (m *Manager) takeOff(ctx context.Context, it Intent) error {
	m.alter(it.ENI, func(e *ENI) {
		for _, b := range it.Blocks {
			e.drop(b)
		}
	})
	var off []netip.Prefix
	for _, group := range bySort(it.Blocks) {
		done, err := m.takeGroup(ctx, it.ENI, group)
		off = append(off, done...)
		switch {
		case err == nil:
		case lostAnswer(err) || it.Doubt:
			return err // open: they may be off or not; Resume leaves those in use out
		default:
			return errors.Join(err, m.tookOff(ctx, it, off))
		}
	}
	return m.tookOff(ctx, it, off)
}

// tookOff closes an unassign intent that took off these blocks.
func (m *Manager) tookOff(ctx context.Context, it Intent, off []netip.Prefix) error {
	m.alter(it.ENI, func(e *ENI) {
		for _, b := range it.Blocks {
			if !slices.Contains(off, b) {
				e.addBlock(b)
			}
		}
	})
	if len(off) == 0 {
		return m.forget(ctx, it.ID)
	}
	m.mu.Lock()
	for _, f := range []Family{IPv4, IPv6} {
		delete(m.packed, slotsOf{it.ENI, f})
	}
	m.mu.Unlock()
	it.Blocks, it.Done, it.Changed = off, true, time.Now()
	return m.put(ctx, it)
}

// takeGroup unassigns blocks of one sort and returns those that are off. EC2
// refuses the whole call if one of them is not on the ENI; then each goes alone,
// and a refusal means that it is off already.
func (m *Manager) takeGroup(ctx context.Context, id string, group []netip.Prefix) (off []netip.Prefix, err error) {
	err = m.takeCall(ctx, id, group)
	why := reasonOf(err)
	switch {
	case err == nil, why == ReasonNotFound, why == ReasonInvalid && len(group) == 1:
		return group, nil
	case why != ReasonInvalid:
		return nil, err
	}
	for _, b := range group {
		done, err := m.takeGroup(ctx, id, []netip.Prefix{b})
		off = append(off, done...)
		var op *OpError
		if errors.As(err, &op) {
			op.lost = true // which of them are off is not known any more
		}
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

// takeCall repeats a call whose answer was lost: taking off what is off does no
// harm. Once an answer was lost, only a clear one settles the matter.
func (m *Manager) takeCall(ctx context.Context, id string, group []netip.Prefix) error {
	var lost error
	for try := 0; ; try++ {
		err := m.ec2.unassign(ctx, id, group, m.whileFree(OpUnassign, id, group))
		if lostAnswer(err) {
			lost = err
		}
		why := reasonOf(err)
		switch {
		case lost == nil, err == nil, why == ReasonInvalid, why == ReasonNotFound:
			return err
		case try+1 >= 3 || m.pause(ctx, try) != nil:
			return lost
		}
	}
}

// bySort groups blocks by what goes into one call: the family, and single
// addresses or prefixes.
func bySort(blocks []netip.Prefix) [][]netip.Prefix {
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
