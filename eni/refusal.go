// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// refusal is what EC2 taught by refusing one more ENI on a card, or more slots on
// an ENI, than the instance type's limit promises. It concerns that card or that
// ENI only. It ends by evidence, when a request there succeeds or a Discover
// shows another count, and by time, since what took the place can have gone: the
// first refusal after minutes, each further one after twice as long.
type refusal struct {
	most  int       // how many there were
	until time.Time // when the type's limit is believed again
	times int       // how many refusals came in a row
}

// How long a refusal counts. A card's is dearer to try again: an ENI is created,
// and deleted.
const (
	slotRefusalFirst = time.Minute
	slotRefusalMost  = 16 * time.Minute
	cardRefusalFirst = 5 * time.Minute
	cardRefusalMost  = time.Hour
)

// again is the refusal after one more, with so many there. It counts for first,
// and twice as long each time, up to last.
func (r refusal) again(there int, now time.Time, first, last time.Duration) refusal {
	d := last
	if r.times < 16 {
		d = min(first<<r.times, last)
	}
	return refusal{most: there, until: now.Add(d), times: r.times + 1}
}

// limit lowers a limit while the refusal counts.
func (r refusal) limit(n int, now time.Time) int {
	if now.Before(r.until) {
		return min(n, r.most)
	}
	return n
}

// slotsOf names the slots of one family of an ENI.
type slotsOf struct {
	eni    string
	family Family
}

// forgetRefusals drops what the inventory contradicts. The caller holds m.mu.
func (m *Manager) forgetRefusals() {
	for key, r := range m.packed {
		if e, ok := m.inv.ENI(key.eni); !ok || e.Slots(key.family) != r.most {
			delete(m.packed, key)
		}
	}
	onCard := map[int]int{}
	for _, e := range m.inv.ENIs {
		onCard[e.Card]++
	}
	for card, r := range m.refused {
		if onCard[card] > r.most {
			delete(m.refused, card)
		}
	}
	for p, at := range m.others {
		if m.inv.EC2At.After(at.Add(m.cfg.Lag)) {
			delete(m.others, p)
		}
	}
}

// slotsRefused is for an assign call that EC2 refused because the ENI takes no
// more, although it should: either it has more than is known, which a look
// tells, or it takes less than its type says, of which one slot is tried. What
// comes of that is returned, else the refusal, which is then remembered.
func (m *Manager) slotsRefused(ctx context.Context, e ENI, f Family, r rung, refused error) ([]netip.Prefix, error) {
	known, fewer, folded := e.Slots(f), 1, false
	if now, there, err := m.ec2.describeENI(ctx, e.ID); err == nil && there {
		folded = m.fold(e, now)
		if n := now.Slots(f); n != known {
			m.mu.Lock()
			fewer = m.limits.SlotsPerENI() - n
			m.mu.Unlock()
		}
	}
	if latest, ok := m.Inventory().ENI(e.ID); ok {
		e = latest
	}
	if fewer = min(fewer, max(r.Prefixes, r.Singles)-1); fewer > 0 {
		if r.Prefixes > 0 {
			r.Prefixes = fewer
		} else {
			r.Singles = fewer
		}
		got, err := m.assignOnce(ctx, e, f, r)
		if err == nil || reasonOf(err) != ReasonSlotLimit {
			return got, err
		}
		refused = err
	}
	if folded {
		return nil, refused // the count, not the limit, was wrong, and is right now
	}
	var op *OpError
	key, at := slotsOf{e.ID, f}, time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	learnt := m.packed[key].again(e.Slots(f), at, slotRefusalFirst, slotRefusalMost)
	m.packed[key] = learnt
	if errors.As(refused, &op) {
		op.After = learnt.until.Sub(at)
	}
	return nil, refused
}

// fold takes into the inventory what EC2 shows on an ENI and was not known, in
// doubt until a Discover has asked both sources. It reports whether there was
// any.
func (m *Manager) fold(e, now ENI) bool {
	fresh := m.newOn(now, Intent{ENI: e.ID, Before: slices.Concat(e.Blocks(), e.Doubtful)})
	if len(fresh) == 0 {
		return false
	}
	m.alter(e.ID, func(e *ENI) {
		for _, b := range fresh {
			e.drop(b)
			e.Doubtful = append(e.Doubtful, b)
		}
	})
	return true
}
