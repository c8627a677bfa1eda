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
// journals each answer. If a step fails permanently, drive undoes the intent and
// then returns the error of that step. If drive returns an error and the intent
// is not done, the intent stays in the journal for a later attempt.
func (m *Manager) drive(ctx context.Context, it Intent) (Intent, error) {
	var failed error
	for {
		s := it.next(time.Now())
		if s == stepDone {
			return it, errors.Join(failed, m.finishIntent(ctx, it))
		}
		was := it
		var err error
		it, err = m.step(ctx, it, s)
		if err != nil && !it.Undo && !it.Done {
			return it, errors.Join(failed, err)
		}
		if err != nil && was.Undo {
			return it, errors.Join(failed, err) // the undo fails too
		}
		failed = errors.Join(failed, err)
		if jerr := m.putIntent(ctx, it); jerr != nil {
			return it, errors.Join(failed, jerr)
		}
	}
}

// step makes one step. If it returns an error and sets Undo on the intent, the
// step has failed permanently. Otherwise a later attempt may succeed.
func (m *Manager) step(ctx context.Context, it Intent, s step) (Intent, error) {
	switch s {
	case stepCreate:
		return m.recreate(ctx, it)
	case stepAttach:
		return m.attach(ctx, it)
	case stepDeleteOnTermination:
		return m.setDeleteOnTermination(ctx, it)
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
	return it, &OpError{Op: string(it.Op), ENI: it.ENI, reason: ReasonStillInFlight, retryAfter: time.Until(it.NotBefore)}
}

// finishIntent marks an intent as done and updates the inventory, both under one lock,
// so that the place of a new ENI counts as taken at every moment.
func (m *Manager) finishIntent(ctx context.Context, it Intent) error {
	if it.ENI == "" {
		return m.removeIntent(ctx, it.ID)
	}
	if it.Op == OpProvision && !it.Undo {
		it = m.complete(it)
	}
	it.Done = true
	if err := m.storeIntent(ctx, it); err != nil {
		return err
	}
	m.changeInventory(func(inv *Inventory) {
		m.intents[it.ID] = it
		inv.ENIs = slices.DeleteFunc(inv.ENIs, func(e ENI) bool { return e.ID == it.ENI })
		if it.Op == OpProvision && !it.Undo {
			inv.ENIs = append(inv.ENIs, *it.Made)
		}
	})
	return nil
}

// refresh updates an unfinished intent with EC2's description of its ENI, because
// the outcome of its last call is not known. If EC2 does not answer, refresh
// returns the intent unchanged.
func (m *Manager) refresh(ctx context.Context, it Intent) (Intent, error) {
	if it.ENI == "" {
		return it, nil
	}
	e, found, err := m.ec2.describeENI(ctx, it.ENI)
	if err != nil {
		return it, err
	}
	return it.observe(e, found, m.lagPassed(it)), nil
}

// recreate repeats the create call of an intent that never got its answer.
func (m *Manager) recreate(ctx context.Context, it Intent) (Intent, error) {
	it, err := m.createOnce(ctx, it, true)
	if err != nil && it.Token == "" {
		it.Done = true // EC2 refused the call: there is no ENI
	}
	return it, err
}

// Bounds of the waits inside a step. A step waits until all of EC2 knows of an
// earlier call, and until an ENI is detached from its instance.
const (
	retryFirst    = time.Second
	retryMax      = 10 * time.Second
	retryAttempts = 8
)

// pause waits before the next attempt at a step.
func (m *Manager) pause(ctx context.Context, try int) error {
	d := retryMax
	if try < 5 {
		d = min(d, retryFirst<<try)
	}
	return sleep(ctx, d/2+time.Duration(m.ec2.cfg.Random()*float64(d/2)))
}

// attach attaches the ENI of an intent. If another program has taken the device
// index, attach tries another one. If EC2 refuses one more ENI on the card, or an ENI
// with so many slots, attach remembers the limit.
func (m *Manager) attach(ctx context.Context, it Intent) (Intent, error) {
	first := it.Device
	for try := 0; ; try++ {
		id, err := m.ec2.attachENI(ctx, it.ENI, m.instance(), it.Card, it.Device)
		if err == nil {
			it.Attached, it.Attachment, it.Changed = true, id, time.Now()
			m.mu.Lock()
			delete(m.cardRefusals, it.Card)
			m.learned.attached(it)
			m.mu.Unlock()
			return it, nil
		}
		var giveUp bool
		if it, giveUp = m.afterAttach(ctx, it, err); it.Device > first+maxOtherPlaces {
			return it.undo(reasonOf(err)), err
		} else if it.Attached {
			return it, nil
		}
		if giveUp || it.Undo || it.Done || try+1 >= retryAttempts || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}

// maxOtherPlaces is how many device indexes attach tries after the first one. EC2
// answers "invalid" for a taken index, and also for every other wrong parameter.
const maxOtherPlaces = 2

// afterAttach handles the error of an attach call. It returns the intent, which
// may now be attached, marked for undo or moved to another place, and whether
// attach should give up.
func (m *Manager) afterAttach(ctx context.Context, it Intent, err error) (Intent, bool) {
	reason := reasonOf(err)
	switch {
	case lostAnswer(err) || reason == ReasonInUse:
		it, _ = m.refresh(ctx, it)
		return it, ctx.Err() != nil
	case notNow(err):
		return it, true
	case reason == ReasonNotFound:
		// The ENI is new, and not all of EC2 may know it yet.
		if !m.lagPassed(it) {
			return it, false
		}
		return it.undo(reason), true
	case m.learnFromAttach(ctx, it, err):
		return it.undo(reason), true
	case reason == ReasonENILimit, reason == ReasonSlotLimit:
		m.recordCardRefusal(ctx, it)
		return it.undo(reason), true
	case reason == ReasonInvalid:
		moved, ok := m.moveToFreePlace(ctx, it)
		if !ok {
			return it.undo(reason), true
		}
		return moved, false
	}
	return it.undo(reason), true
}

// recordCardRefusal remembers how many ENIs a card has when EC2 refuses one more,
// so that the next request fails without a call. It does not affect other cards.
// ENIs that EC2 has refused too, at the same time, do not count.
func (m *Manager) recordCardRefusal(ctx context.Context, it Intent) {
	enis, _ := m.listAttached(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	refused := map[place]bool{{it.Card, it.Device}: true}
	for _, in := range m.intents {
		if in.Op == OpProvision && !in.Done && in.Undo && !in.Attached {
			refused[place{in.Card, in.Device}] = true
		}
	}
	n := 0
	for _, p := range m.takenPlacesLocked(enis) {
		if p.Card == it.Card && !refused[p] {
			n++
		}
	}
	m.cardRefusals[it.Card] = m.cardRefusals[it.Card].next(n, time.Now(), cardRefusalFirst, cardRefusalMost)
}

// takenPlacesLocked lists all places known to be taken: by ENIs of the inventory
// and of a newer listing, by unfinished intents, and by ENIs of other programs
// that the inventory is too old to show.
func (m *Manager) takenPlacesLocked(enis []ENI) []place {
	out := takenPlaces(m.inv, slices.Collect(maps.Values(m.intents)))
	for _, e := range enis {
		out = append(out, place{e.Card, e.Device})
	}
	for p, at := range m.foreignPlaces {
		if m.inv.EC2At.Before(at.Add(m.cfg.Lag)) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b place) int { return cmp.Or(cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device)) })
	return slices.Compact(out)
}

// moveToFreePlace gives the intent another device index after EC2 refused the
// first one. The refused index counts as taken even if the listing of EC2, which
// may be old, does not show it. It reports false if there is no free place.
func (m *Manager) moveToFreePlace(ctx context.Context, it Intent) (Intent, bool) {
	enis, err := m.listAttached(ctx)
	if err != nil {
		return it, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.foreignPlaces[place{it.Card, it.Device}] = time.Now()
	limit := m.cardLimitLocked(m.limits, it.Card, time.Now())
	p, ok := freePlace(it.Card, limit, m.takenPlacesLocked(enis))
	if ok {
		it.Device = p.Device
		m.intents[it.ID] = it
	}
	return it, ok
}

// listAttached asks EC2 for all ENIs attached to the instance.
func (m *Manager) listAttached(ctx context.Context) ([]ENI, error) {
	return m.ec2.describeENIs(ctx, filter{"attachment.instance-id", []string{m.instance()}})
}

// instance returns the ID of the instance.
func (m *Manager) instance() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inv.Instance.ID
}

// setDeleteOnTermination makes EC2 delete the ENI together with its instance. Not
// all of EC2 may know the new attachment yet, so a refusal of that kind is not a
// reason to undo the ENI.
func (m *Manager) setDeleteOnTermination(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		err := m.ec2.deleteOnTermination(ctx, it.ENI, it.Attachment)
		reason := reasonOf(err)
		switch {
		case err == nil:
			it.DeleteOnTermination, it.Changed = true, time.Now()
			return it, nil
		case lostAnswer(err), notNow(err):
			return it, err
		case !notFinal(err):
			return it.undo(reason), err
		case m.lagPassed(it):
			now, lookErr := m.refresh(ctx, it)
			if lookErr != nil || now.Done || !now.Attached || now.DeleteOnTermination {
				return now, lookErr
			}
			return now.undo(reason), err
		}
		if try+1 >= retryAttempts || m.pause(ctx, try) != nil {
			return it, err // the intent stays in the journal
		}
	}
}

// Intervals of polls for an attachment. Asking the metadata service is free, so
// wait polls it often. It asks EC2 only if the metadata service has not shown the
// ENI after pollEC2.
const (
	pollFirst = 200 * time.Millisecond
	pollMax   = 5 * time.Second
	pollEC2   = 8 * time.Second
)

// wait waits until the metadata service or EC2 shows the ENI attached.
func (m *Manager) wait(ctx context.Context, it Intent) (Intent, error) {
	begin := time.Now()
	ask, answered := begin.Add(pollEC2), false
	for poll := pollFirst; ; poll = min(2*poll, pollMax) {
		if macs, err := m.ec2.macs(ctx); err == nil && slices.Contains(macs, it.Made.MAC) {
			it.Ready = true
			return it, nil
		}
		if asked := time.Now(); !asked.Before(ask) {
			now, err := m.refresh(ctx, it)
			if it, answered = now, err == nil; it.Ready || it.Done {
				return it, nil
			}
			ask = asked.Add(2 * asked.Sub(begin))
		}
		overdue := &OpError{Op: string(it.Op), ENI: it.ENI, reason: ReasonUnreachable, Err: errors.New("attachment does not complete")}
		switch late := time.Since(begin) > m.cfg.AttachTimeout; {
		case late && answered:
			return it.undo(overdue.reason), overdue
		case late:
			return it, overdue // no source has answered, so nothing is known of the attachment
		}
		if err := sleep(ctx, poll); err != nil {
			overdue.Err = err
			return it, overdue
		}
	}
}

// complete fills the intent of an attached ENI with the ENI's final description,
// which goes to the inventory and is the evidence that the ENI exists.
func (m *Manager) complete(it Intent) Intent {
	e := it.Made.clone()
	e.Attachment, e.Card, e.Device, e.Status = it.Attachment, it.Card, it.Device, "attached"
	e.DeleteOnTermination, e.Managed, e.Sources = it.DeleteOnTermination, true, SourceOwn
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Instance = m.inv.Instance.ID
	for _, s := range append(slices.Clone(m.subnets), m.inv.Instance.PrimarySubnet) {
		if s.ID == e.SubnetID {
			e.Subnet, e.Subnet6 = s.Prefix, s.Prefix6
		}
	}
	if it.Prefixes > 0 {
		m.elsewhereSince = time.Time{}
	}
	it.Made, it.Blocks, it.Changed = &e, e.Blocks(), time.Now()
	return it
}

// detach asks EC2 to detach the ENI.
func (m *Manager) detach(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		err := m.ec2.detachENI(ctx, it.Attachment, m.ifUnused(it))
		reason := reasonOf(err)
		switch {
		case forbidden(err):
			it.Doubt = it.Doubt || lostAnswer(err)
			return it, err
		case err == nil:
			it.Detached, it.Changed = true, time.Now()
			return it, nil
		case reason == ReasonNotFound && !m.showsAttached(ctx, it):
			it.Detached = true
			return it, nil
		case mustLook(err) && reason != ReasonNotManaged:
			// EC2 may be detaching or still attaching the ENI.
			it.Doubt = it.Doubt || lostAnswer(err)
			if it, _ = m.refresh(ctx, it); it.Detached || it.Done || !it.Attached {
				return it, nil
			}
		default:
			return it, err
		}
		if try+1 >= retryAttempts || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}

// showsAttached reports whether EC2 shows the ENI of an intent attached.
func (m *Manager) showsAttached(ctx context.Context, it Intent) bool {
	e, found, err := m.ec2.describeENI(ctx, it.ENI)
	return err == nil && found && e.Attachment != "" && e.Status != "detaching"
}

// showsGone reports whether EC2 answers that the ENI of an intent does not exist.
func (m *Manager) showsGone(ctx context.Context, it Intent) bool {
	_, found, err := m.ec2.describeENI(ctx, it.ENI)
	return err == nil && !found
}

// delete deletes the ENI as soon as it is detached from its instance.
func (m *Manager) delete(ctx context.Context, it Intent) (Intent, error) {
	for try := 0; ; try++ {
		if it.Detached && try == 0 && m.pause(ctx, 1) != nil {
			return it, ctx.Err() // detaching takes seconds, and an earlier delete would only cost a call
		}
		err := m.ec2.deleteENI(ctx, it.ENI, m.ifUnused(it))
		if forbidden(err) {
			return it, err
		}
		reason := reasonOf(err)
		// EC2 may not find an ENI that is new and was never attached.
		tooNew := reason == ReasonNotFound && !it.Attached && !m.lagPassed(it)
		switch {
		case err == nil || reason == ReasonNotFound && !tooNew && m.showsGone(ctx, it):
			it.Done, it.Changed = true, time.Now()
			return it, nil
		case tooNew, mustLook(err) && reason != ReasonNotManaged:
			if it = m.findAssociation(ctx, it); it.Association != "" {
				return it, nil // it must be disassociated from its trunk first
			}
		default:
			return it, err
		}
		if tooNew {
			try = min(try, retryAttempts-2)
		}
		if try+1 >= retryAttempts || m.pause(ctx, try) != nil {
			return it, err
		}
	}
}
