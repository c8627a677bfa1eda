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

// AssignInput says what to put on an ENI.
type AssignInput struct {
	ENI string
	// Slots is how many slots to fill, 1 or more. More than are free means all
	// that are.
	Slots int
	// Prefixes asks for prefixes, /28 or /80, instead of single addresses.
	Prefixes bool
	// Singles is how many single addresses to assign instead if the subnet has
	// no free prefix; 0 means to fail with ErrNoFreePrefix.
	Singles int
	// Family is the IP version. Optional; default IPv4.
	Family Family
}

// Assign puts addresses or prefixes on an ENI and returns those that came,
// which can be fewer than asked for, or single addresses in place of prefixes:
// one call when nothing goes wrong. A subnet found without a free prefix, or
// full, is not asked again for two minutes; until then Assign fails, or goes
// over to single addresses, without a call.
//
// If the answer of EC2 is lost, Assign looks for what came. What it does not
// see yet will be in a later Discover.
func (m *Manager) Assign(ctx context.Context, in AssignInput) ([]netip.Prefix, error) {
	if in.Family == 0 {
		in.Family = IPv4
	}
	if err := m.permit(OpAssign, in.ENI, false); err != nil {
		return nil, err
	}
	e, err := m.known(ctx, OpAssign, in.ENI)
	if err != nil {
		return nil, err
	}
	if e.InFlight {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, Why: ReasonStillInFlight, After: patienceFirst}
	}
	if !e.ForPods() {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, Why: ReasonNotManaged}
	}
	release, ok := m.hold(in.ENI)
	if !ok {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, Why: ReasonStillInFlight, After: patienceFirst}
	}
	defer release()
	if err := m.releaseLeft(ctx, in.ENI); err != nil {
		return nil, err
	}
	w, err := m.room(ctx, e, in)
	if err != nil {
		return nil, err
	}
	return m.putOn(ctx, e, in, w)
}

// room cuts a request down to the free slots of the ENI.
func (m *Manager) room(ctx context.Context, e ENI, in AssignInput) (want, error) {
	l, err := m.Limits(ctx)
	if err != nil {
		return want{}, err
	}
	now, used := time.Now(), e.Slots(in.Family)
	m.mu.Lock()
	r := m.packed[slotsOf{e.ID, in.Family}]
	m.mu.Unlock()
	free := r.limit(l.SlotsPerENI(), now) - used
	if free <= 0 {
		full := &OpError{Op: string(OpAssign), ENI: e.ID, Why: ReasonSlotLimit, Err: fmt.Errorf("%d slots in use", used)}
		if used < l.SlotsPerENI() {
			full.After = r.until.Sub(now)
			full.Err = fmt.Errorf("%d of %d slots in use, and EC2 refused another", used, l.SlotsPerENI())
		}
		return want{}, full
	}
	if !in.Prefixes || !l.Nitro {
		return want{Singles: min(in.Slots, free)}, nil
	}
	return want{Prefixes: min(in.Slots, free), Singles: min(in.Singles, free)}, nil
}

// putOn climbs the ladder of one subnet. IPv6 subnets do not run out, so there
// the first rung is all there is.
func (m *Manager) putOn(ctx context.Context, e ENI, in AssignInput, w want) ([]netip.Prefix, error) {
	m.mu.Lock()
	rungs := climb([]string{e.SubnetID}, w, m.rests, time.Now())
	if in.Family == IPv6 {
		rungs = climb([]string{e.SubnetID}, w, nil, time.Now())[:1]
	}
	m.mu.Unlock()
	if len(rungs) == 0 {
		err := m.resting([]string{e.SubnetID})
		var op *OpError
		if errors.As(err, &op) {
			op.Op, op.ENI = string(OpAssign), e.ID
		}
		return nil, err
	}
	var err error
	for _, r := range rungs {
		var got []netip.Prefix
		if got, err = m.assignOnce(ctx, e, in.Family, r); reasonOf(err) == ReasonSlotLimit {
			got, err = m.slotsRefused(ctx, e, in.Family, r, err)
		}
		if err == nil {
			return got, nil
		}
		why := reasonOf(err)
		if why != ReasonSubnetFull && why != ReasonNoFreePrefix {
			break
		}
		m.failed(r, why)
	}
	return nil, err
}

// assignOnce makes one assign call under an intent of its own.
func (m *Manager) assignOnce(ctx context.Context, e ENI, f Family, r rung) ([]netip.Prefix, error) {
	it := m.start(OpAssign)
	it.ENI, it.Before = e.ID, slices.Concat(e.Blocks(), e.Doubtful)
	if f == IPv6 {
		it.Addrs6, it.Prefixes6 = r.Singles, r.Prefixes
	} else {
		it.Addrs, it.Prefixes = r.Singles, r.Prefixes
	}
	releaseIntent, _ := m.hold(it.ID)
	defer releaseIntent()
	if err := m.put(ctx, it); err != nil {
		return nil, err
	}
	got, err := m.ec2.assign(ctx, e.ID, f, max(r.Prefixes, r.Singles), r.Prefixes > 0)
	switch {
	case lostAnswer(err):
		got = m.seek(ctx, it)
		if len(got) == 0 {
			return nil, err // open: Discover will tell
		}
	case err != nil:
		return nil, errors.Join(err, m.forget(ctx, it.ID))
	}
	return got, m.came(ctx, it, got)
}

// came closes an assign intent with what it brought.
func (m *Manager) came(ctx context.Context, it Intent, got []netip.Prefix) error {
	it.Blocks, it.Done, it.Changed = got, true, time.Now()
	if len(got) > 0 {
		m.mu.Lock()
		delete(m.packed, slotsOf{it.ENI, FamilyOf(got[0].Addr())})
		m.mu.Unlock()
	}
	m.alter(it.ENI, func(e *ENI) {
		for _, b := range got {
			e.drop(b)
			e.addBlock(b)
		}
	})
	return m.put(ctx, it)
}

// seek looks for what an assign call brought whose answer was lost: what is on
// the ENI now, was not before, and was not taken off lately.
func (m *Manager) seek(ctx context.Context, it Intent) []netip.Prefix {
	for try := range 2 {
		if m.pause(ctx, try) != nil {
			return nil
		}
		e, there, err := m.ec2.describeENI(ctx, it.ENI)
		if err != nil || !there {
			continue
		}
		if got := m.newOn(e, it); len(got) > 0 {
			return got
		}
	}
	return nil
}

func (m *Manager) newOn(e ENI, it Intent) []netip.Prefix {
	m.mu.Lock()
	defer m.mu.Unlock()
	var recent []Intent
	for _, in := range m.intents {
		if in.ENI == e.ID {
			recent = append(recent, in)
		}
	}
	own := evidenceOf(recent)[e.ID]
	return slices.DeleteFunc(e.Blocks(), func(b netip.Prefix) bool {
		return slices.Contains(it.Before, b) || own != nil && own.changes[b].removed
	})
}
