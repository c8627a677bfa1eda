// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// AssignInput describes the slots to assign to an ENI.
type AssignInput struct {
	ENI string
	// Slots is the number of slots to fill, 1 or more. It is reduced to the number
	// of free slots.
	Slots int
	// Prefixes requests prefixes, /28 or /80, instead of single addresses.
	Prefixes bool
	// Singles is the number of single addresses to assign instead if the ENI's subnet
	// has no free prefix, and no other one may have a prefix for this node. 0 means
	// that Assign then fails with ErrNoFreePrefix.
	Singles int
	// Family is the IP version. Optional; default IPv4.
	Family Family
}

// Assign assigns addresses or prefixes to an ENI and returns the blocks that EC2
// assigned. They can be fewer than requested, or single addresses in place of
// prefixes. Without failures Assign makes one call. After a subnet turns out to be
// full, or without a free prefix, Assign does not ask for the same again for two
// minutes: it fails, or falls back to single addresses, without a call.
//
// If the ENI's subnet has no free prefix, but Provision, or Assign for another ENI,
// may get one in another subnet that Config.Subnets selects, Assign does not fall back
// but fails with ErrNoFreePrefix. If the node has not got a prefix within 10 seconds,
// Assign falls back. To know the selected subnets it may list them, with one call in
// 10 minutes.
//
// If the answer of EC2 is lost, Assign asks EC2 which blocks are new on the ENI. A
// later Discover finds the blocks that EC2 does not show yet.
func (m *Manager) Assign(ctx context.Context, in AssignInput) ([]netip.Prefix, error) {
	if in.Family == 0 {
		in.Family = IPv4
	}
	if err := m.permit(OpAssign, in.ENI, false); err != nil {
		return nil, err
	}
	e, err := m.knownENI(ctx, OpAssign, in.ENI)
	if err != nil {
		return nil, err
	}
	if e.InFlight {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, reason: ReasonStillInFlight, retryAfter: retryFirst}
	}
	if !e.ForPods() {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, reason: ReasonNotManaged}
	}
	release, ok := m.claim(in.ENI)
	if !ok {
		return nil, &OpError{Op: string(OpAssign), ENI: in.ENI, reason: ReasonStillInFlight, retryAfter: retryFirst}
	}
	defer release()
	if err := m.resumeUnassigns(ctx, in.ENI); err != nil {
		return nil, err
	}
	w, err := m.fitRequest(ctx, e, in)
	if err != nil {
		return nil, err
	}
	var got []netip.Prefix
	err = m.withRest(restKey{op: OpAssign, eni: in.ENI, family: in.Family}, func() (err error) {
		got, err = m.assignWithFallback(ctx, e, in, w)
		return err
	})
	return got, err
}

// fitRequest returns the request, reduced to the free slots of the ENI.
func (m *Manager) fitRequest(ctx context.Context, e ENI, in AssignInput) (slotRequest, error) {
	l, err := m.Limits(ctx)
	if err != nil {
		return slotRequest{}, err
	}
	now, used := time.Now(), e.Slots(in.Family)
	m.mu.Lock()
	r := m.slotRefusals[slotKey{e.ID, in.Family}]
	m.mu.Unlock()
	free := r.limit(l.SlotsPerENI(), now) - used
	if free <= 0 {
		full := &OpError{Op: string(OpAssign), ENI: e.ID, reason: ReasonSlotLimit, Err: fmt.Errorf("%d slots in use", used)}
		if used < l.SlotsPerENI() {
			full.retryAfter = r.until.Sub(now)
			full.Err = fmt.Errorf("%d of %d slots in use, but EC2 refused another", used, l.SlotsPerENI())
		}
		return slotRequest{}, full
	}
	if !in.Prefixes || !l.Nitro {
		return slotRequest{Singles: min(in.Slots, free)}, nil
	}
	return slotRequest{Prefixes: min(in.Slots, free), Singles: min(in.Singles, free)}, nil
}

// assignWithFallback makes the attempts in the ENI's subnet in order until EC2
// assigns something. IPv6 subnets do not run out of addresses, so for IPv6 there is
// only the first attempt.
func (m *Manager) assignWithFallback(ctx context.Context, e ENI, in AssignInput, w slotRequest) ([]netip.Prefix, error) {
	m.mu.Lock()
	attempts := listAttempts([]string{e.SubnetID}, w, m.exhausted, time.Now())
	if in.Family == IPv6 {
		attempts = listAttempts([]string{e.SubnetID}, w, nil, time.Now())[:1]
	}
	m.mu.Unlock()
	if len(attempts) == 0 {
		err := m.exhaustedError([]string{e.SubnetID})
		var op *OpError
		if errors.As(err, &op) {
			op.Op, op.ENI = string(OpAssign), e.ID
		}
		return nil, err
	}
	var err error
	for _, a := range attempts {
		if w.Prefixes > 0 && a.Prefixes == 0 {
			if early := m.awaitElsewhere(ctx, e); early != nil {
				return nil, early
			}
		}
		var got []netip.Prefix
		if got, err = m.assignOnce(ctx, e, in.Family, a); reasonOf(err) == ReasonSlotLimit {
			got, err = m.afterSlotRefusal(ctx, e, in.Family, a, err)
		}
		if err == nil {
			return got, nil
		}
		reason := reasonOf(err)
		if reason != ReasonSubnetFull && reason != ReasonNoFreePrefix {
			m.learnNoPrefixes(ctx, a.Prefixes, err)
			break
		}
		m.recordFailure(a, reason)
	}
	return nil, err
}

// assignOnce makes one assign call with its own intent.
func (m *Manager) assignOnce(ctx context.Context, e ENI, f Family, a attempt) ([]netip.Prefix, error) {
	it := m.newIntent(OpAssign)
	it.ENI, it.Before = e.ID, slices.Concat(e.Blocks(), e.Doubtful)
	if f == IPv6 {
		it.Addrs6, it.Prefixes6 = a.Singles, a.Prefixes
	} else {
		it.Addrs, it.Prefixes = a.Singles, a.Prefixes
	}
	releaseIntent, _ := m.claim(it.ID)
	defer releaseIntent()
	if err := m.putIntent(ctx, it); err != nil {
		return nil, err
	}
	got, err := m.ec2.assign(ctx, e.ID, f, a)
	for try := 0; try < newENIAttempts && notFinal(err) && m.attachedLately(e.ID); try++ {
		if m.pause(ctx, try) != nil {
			break
		}
		got, err = m.ec2.assign(ctx, e.ID, f, a)
	}
	switch {
	case lostAnswer(err):
		got = m.findAssigned(ctx, it)
		if len(got) == 0 {
			return nil, err // unfinished: Discover finds the outcome
		}
	case err != nil:
		return nil, errors.Join(err, m.removeIntent(ctx, it.ID))
	}
	return got, m.recordAssigned(ctx, it, got)
}

// newENIAttempts is how often a call is repeated that EC2 refuses because not all
// of it knows a new ENI. The waits in between sum up to 7 seconds.
const newENIAttempts = 3

// notFinal reports whether EC2's refusal may be due to a change that not all of EC2
// knows yet (https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html).
// Its callers know whether there was such a change within Config.Lag.
func notFinal(err error) bool {
	reason := reasonOf(err)
	return !lostAnswer(err) && (reason == ReasonNotFound || reason == ReasonInUse)
}

// attachedLately reports whether this node attached the ENI so lately that not all
// of EC2 may know it yet.
func (m *Manager) attachedLately(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := evidenceOf(slices.Collect(maps.Values(m.intents)))[id]
	return own != nil && own.made != nil && time.Since(own.attachedAt) < m.cfg.Lag
}

// recordAssigned completes an assign intent with the blocks that EC2 assigned.
func (m *Manager) recordAssigned(ctx context.Context, it Intent, got []netip.Prefix) error {
	it.Blocks, it.Done, it.Changed = got, true, time.Now()
	if len(got) > 0 {
		m.mu.Lock()
		delete(m.slotRefusals, slotKey{it.ENI, FamilyOf(got[0].Addr())})
		if it.Prefixes > 0 {
			m.elsewhereSince = time.Time{}
		}
		m.mu.Unlock()
	}
	m.changeENI(it.ENI, func(e *ENI) {
		for _, b := range got {
			e.removeBlock(b)
			e.addBlock(b)
		}
	})
	return m.putIntent(ctx, it)
}

// findAssigned asks EC2 for the result of an assign call after its answer was
// lost: the blocks that are on the ENI now, were not there before, and were not
// unassigned since.
func (m *Manager) findAssigned(ctx context.Context, it Intent) []netip.Prefix {
	for try := range 2 {
		if m.pause(ctx, try) != nil {
			return nil
		}
		e, found, err := m.ec2.describeENI(ctx, it.ENI)
		if err != nil || !found {
			continue
		}
		if got := m.newBlocks(e, it); len(got) > 0 {
			return got
		}
	}
	return nil
}

// newBlocks returns the blocks of e that it did not have before the intent and
// that this node has not unassigned since.
func (m *Manager) newBlocks(e ENI, it Intent) []netip.Prefix {
	m.mu.Lock()
	defer m.mu.Unlock()
	var recent []Intent
	for _, in := range m.intents {
		if in.ENI == e.ID {
			recent = append(recent, in)
		}
	}
	own := evidenceOf(recent)[e.ID]
	if known, ok := m.inv.ENI(e.ID); ok {
		e = e.withOwn(known.Addr, known.Addr6)
	}
	return slices.DeleteFunc(e.Blocks(), func(b netip.Prefix) bool {
		return slices.Contains(it.Before, b) || own != nil && own.changes[b].removed
	})
}
