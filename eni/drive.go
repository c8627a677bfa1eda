// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// drive makes the calls of an intent one after the other until it is done, and
// journals each answer. A step that fails for good turns the intent back; what
// failed is the error then, after the way back is complete. An error with the
// intent not done means that it stays in the journal for another time.
func (m *Manager) drive(ctx context.Context, it Intent) (Intent, error) {
	var failed error
	for {
		s := it.next(time.Now())
		if s == stepDone {
			return it, errors.Join(failed, m.done(ctx, it))
		}
		was := it
		var err error
		it, err = m.step(ctx, it, s)
		if err != nil && !it.Undo && !it.Done {
			return it, errors.Join(failed, err)
		}
		if err != nil && was.Undo {
			return it, errors.Join(failed, err) // even the way back is blocked
		}
		failed = errors.Join(failed, err)
		if jerr := m.put(ctx, it); jerr != nil {
			return it, errors.Join(failed, jerr)
		}
	}
}

// step makes one step. Its error means: with Undo newly set on the intent, that
// the step failed for good; else that it may succeed another time.
func (m *Manager) step(ctx context.Context, it Intent, s step) (Intent, error) {
	switch s {
	case stepCreate:
		return m.recreate(ctx, it)
	case stepAttach:
		return m.attach(ctx, it)
	case stepKeep:
		return m.keep(ctx, it)
	case stepWait:
		return m.wait(ctx, it)
	case stepAssociate:
		return m.associate(ctx, it)
	case stepDisassociate:
		return m.disassociate(ctx, it)
	case stepDetach:
		return m.detach(ctx, it)
	case stepDelete:
		return m.delete(ctx, it)
	}
	return it, &OpError{Op: string(it.Op), ENI: it.ENI, Why: ReasonStillInFlight, After: time.Until(it.NotBefore)}
}

// done closes an intent and brings the inventory up to date.
func (m *Manager) done(ctx context.Context, it Intent) error {
	if it.ENI == "" {
		return m.forget(ctx, it.ID)
	}
	if it.Op == OpProvision && !it.Undo {
		it = m.complete(it)
	}
	it.Done = true
	if err := m.put(ctx, it); err != nil {
		return err
	}
	m.change(func(inv *Inventory) {
		inv.ENIs = slices.DeleteFunc(inv.ENIs, func(e ENI) bool { return e.ID == it.ENI })
		if it.Op == OpProvision && !it.Undo {
			inv.ENIs = append(inv.ENIs, *it.Made)
		}
	})
	return nil
}

// look asks EC2 about the ENI of an intent that was left open, since nobody
// knows what became of its last call. If EC2 does not answer, the intent stays
// as it was.
func (m *Manager) look(ctx context.Context, it Intent) (Intent, error) {
	if it.ENI == "" {
		return it, nil
	}
	e, there, err := m.ec2.describeENI(ctx, it.ENI)
	if err != nil {
		return it, err
	}
	return it.saw(e, there, m.settled(it)), nil
}

// recreate repeats the create call of an intent whose answer was never seen.
func (m *Manager) recreate(ctx context.Context, it Intent) (Intent, error) {
	it, err := m.createOnce(ctx, it, true)
	if err != nil && it.Token == "" {
		it.Done = true // refused: nothing is there
	}
	return it, err
}

// Bounds of the waits inside a step: for EC2 to see what it was just told, and
// for an ENI to come off its instance.
const (
	patienceFirst = time.Second
	patienceMost  = 10 * time.Second
	patienceTries = 8
)

// pause waits before a step's next attempt.
func (m *Manager) pause(ctx context.Context, try int) error {
	d := patienceMost
	if try < 5 {
		d = min(d, patienceFirst<<try)
	}
	return sleep(ctx, d/2+time.Duration(m.ec2.cfg.Random()*float64(d/2)))
}

// attach attaches the ENI of an intent. What stands in the way teaches: a
// device index that somebody else took is exchanged, and a limit is remembered.
func (m *Manager) attach(ctx context.Context, it Intent) (Intent, error) {
	first := it.Device
	for try := 0; ; try++ {
		id, err := m.ec2.attachENI(ctx, it.ENI, m.instance(), it.Card, it.Device)
		if err == nil {
			it.Attached, it.Attachment, it.Changed = true, id, time.Now()
			m.mu.Lock()
			delete(m.refused, it.Card)
			m.mu.Unlock()
			return it, nil
		}
		var giveUp bool
		if it, giveUp = m.afterAttach(ctx, it, err); it.Device > first+placesMost {
			return it.turn(reasonOf(err)), err
		} else if it.Attached {
			return it, nil
		}
		if giveUp || it.Undo || it.Done || try+1 >= patienceTries || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}

// placesMost is how many device indexes are tried after the first one. EC2 says
// "invalid" of an index that is taken as of everything else it does not like.
const placesMost = 2

// afterAttach decides what an attach call that failed means. It returns the
// intent, which may be attached, turned back or moved to another place, and
// whether another attempt makes no sense now.
func (m *Manager) afterAttach(ctx context.Context, it Intent, err error) (Intent, bool) {
	why := reasonOf(err)
	switch {
	case lostAnswer(err) || why == ReasonInUse:
		it, _ = m.look(ctx, it)
		return it, ctx.Err() != nil
	case why == ReasonThrottled:
		return it, true
	case why == ReasonNotFound:
		// Just created, it may not have reached all of EC2 yet.
		if !m.settled(it) {
			return it, false
		}
		return it.turn(why), true
	case why == ReasonENILimit:
		m.learnLimit(ctx, it)
		return it.turn(why), true
	case why == ReasonInvalid:
		moved, ok := m.otherPlace(ctx, it)
		if !ok {
			return it.turn(why), true
		}
		return moved, false
	}
	return it.turn(why), true
}

// learnLimit remembers how many ENIs a card holds now that EC2 refused one
// more, so that the next request fails here without a call. Other cards are not
// concerned.
func (m *Manager) learnLimit(ctx context.Context, it Intent) {
	enis, _ := m.attached(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, p := range m.takenLocked(enis) {
		if p.Card == it.Card && p.Device != it.Device {
			n++
		}
	}
	m.refused[it.Card] = m.refused[it.Card].again(n, time.Now(), cardRefusalFirst, cardRefusalMost)
}

// takenLocked lists the places that are taken as far as anyone knows: in the
// inventory, in a newer listing, by intents under way, and by ENIs that stood in
// the way and that the inventory is too old to show.
func (m *Manager) takenLocked(enis []ENI) []place {
	out := taken(m.inv, slices.Collect(maps.Values(m.intents)))
	for _, e := range enis {
		out = append(out, place{e.Card, e.Device})
	}
	for p, at := range m.others {
		if m.inv.EC2At.Before(at.Add(m.cfg.Lag)) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b place) int { return cmp.Or(cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device)) })
	return slices.Compact(out)
}

// otherPlace finds another device index after EC2 refused the intent's one.
// That one counts as taken, even if the listing, which may be old, does not show
// it.
func (m *Manager) otherPlace(ctx context.Context, it Intent) (Intent, bool) {
	enis, err := m.attached(ctx)
	if err != nil {
		return it, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others[place{it.Card, it.Device}] = time.Now()
	limit := cardLimit(m.limits, m.cfg, it.Card, m.refused, time.Now())
	p, ok := freePlace(it.Card, limit, m.takenLocked(enis))
	if ok {
		it.Device = p.Device
		m.intents[it.ID] = it
	}
	return it, ok
}

// attached asks EC2 for all ENIs attached to the instance.
func (m *Manager) attached(ctx context.Context) ([]ENI, error) {
	return m.ec2.describeENIs(ctx, filter{"attachment.instance-id", []string{m.instance()}})
}

func (m *Manager) instance() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inv.Instance.ID
}

// keep has the ENI deleted with its instance, so that it cannot outlive it.
func (m *Manager) keep(ctx context.Context, it Intent) (Intent, error) {
	err := m.ec2.deleteOnTermination(ctx, it.ENI, it.Attachment)
	why := reasonOf(err)
	switch {
	case err == nil:
		it.Kept, it.Changed = true, time.Now()
	case lostAnswer(err), why == ReasonThrottled:
	default:
		it = it.turn(why)
	}
	return it, err
}

// Polls of an attachment: the metadata service costs nothing and is asked
// often, EC2 only when the metadata service has had its time.
const (
	pollFirst = 200 * time.Millisecond
	pollMost  = 5 * time.Second
	pollEC2   = 8 * time.Second
)

// wait waits until the metadata service or EC2 shows the ENI attached.
func (m *Manager) wait(ctx context.Context, it Intent) (Intent, error) {
	begin := time.Now()
	ask := begin.Add(pollEC2)
	for poll := pollFirst; ; poll = min(2*poll, pollMost) {
		if macs, err := m.ec2.macs(ctx); err == nil && slices.Contains(macs, it.Made.MAC) {
			it.Ready = true
			return it, nil
		}
		if now := time.Now(); !now.Before(ask) {
			it, _ = m.look(ctx, it)
			if it.Ready || it.Done {
				return it, nil
			}
			ask = now.Add(2 * now.Sub(begin))
		}
		overdue := &OpError{Op: string(it.Op), ENI: it.ENI, Why: ReasonUnreachable, Err: errors.New("attachment does not complete")}
		if time.Since(begin) > m.cfg.AttachTimeout {
			return it.turn(overdue.Why), overdue
		}
		if err := sleep(ctx, poll); err != nil {
			overdue.Err = err
			return it, overdue
		}
	}
}

// complete writes down what the ENI has become, for the inventory and as the
// evidence that it is there.
func (m *Manager) complete(it Intent) Intent {
	e := it.Made.clone()
	e.Attachment, e.Card, e.Device, e.Status = it.Attachment, it.Card, it.Device, "attached"
	e.DeleteOnTermination, e.Managed, e.Sources = it.Kept, true, SourceOwn
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Instance = m.inv.Instance.ID
	for _, s := range append(slices.Clone(m.subnets), m.inv.Instance.PrimarySubnet) {
		if s.ID == e.SubnetID {
			e.Subnet, e.Subnet6 = s.Prefix, s.Prefix6
		}
	}
	it.Made, it.Blocks, it.Changed = &e, e.Blocks(), time.Now()
	return it
}

// detach asks EC2 to detach the ENI.
func (m *Manager) detach(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		err := m.ec2.detachENI(ctx, it.Attachment, m.whileUnused(it))
		why := reasonOf(err)
		switch {
		case forbidden(err):
			it.Doubt = it.Doubt || lostAnswer(err)
			return it, err
		case err == nil:
			it.Detached, it.Changed = true, time.Now()
			return it, nil
		case why == ReasonNotFound:
			it.Detached = true
			return it, nil
		case lostAnswer(err), why == ReasonInUse, why == ReasonInvalid:
			// It may be detaching already, or not be attached all the way.
			it.Doubt = it.Doubt || lostAnswer(err)
			if it, _ = m.look(ctx, it); it.Detached || it.Done || !it.Attached {
				return it, nil
			}
		default:
			return it, err
		}
		if try+1 >= patienceTries || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}

// delete deletes the ENI, as soon as it has come off its instance.
func (m *Manager) delete(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		if it.Detached && try == 0 && m.pause(ctx, 1) != nil {
			return it, ctx.Err() // detaching takes some seconds, an early delete only costs a call
		}
		err := m.ec2.deleteENI(ctx, it.ENI, m.whileUnused(it))
		if forbidden(err) {
			return it, err
		}
		why := reasonOf(err)
		// An ENI that was never attached may be too new to be found.
		tooNew := why == ReasonNotFound && !it.Attached && !m.settled(it)
		switch {
		case err == nil || why == ReasonNotFound && !tooNew:
			it.Done, it.Changed = true, time.Now()
			return it, nil
		case tooNew, lostAnswer(err), why == ReasonInUse, why == ReasonInvalid:
			if it = m.joined(ctx, it); it.Association != "" {
				return it, nil // it has to come off its trunk first
			}
		default:
			return it, err
		}
		if tooNew {
			try = min(try, patienceTries-2)
		}
		if try+1 >= patienceTries || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}
