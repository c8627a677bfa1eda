// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// refusal records that EC2 refused one more ENI on a card, or more slots on an
// ENI, although the instance type allows it. It applies to that card or that ENI
// only. It ends when a request there succeeds, or when a Discover shows another
// count. It also ends by itself, because the object that took the place may be
// gone: the first refusal after minutes, each further one after twice as long.
type refusal struct {
	count int       // how many ENIs or slots there were
	until time.Time // when the limit of the type applies again
	inRow int       // how many refusals in a row
}

// How long a refusal counts. Another attempt on a card costs more, because it
// creates and deletes an ENI.
const (
	slotRefusalFirst = time.Minute
	slotRefusalMost  = 16 * time.Minute
	cardRefusalFirst = 5 * time.Minute
	cardRefusalMost  = time.Hour
)

// next returns the refusal after a further one, with count ENIs or slots present.
// It counts for first, and twice as long after each refusal, up to last.
func (r refusal) next(count int, now time.Time, first, last time.Duration) refusal {
	d := last
	if r.inRow < 16 {
		d = min(first<<r.inRow, last)
	}
	return refusal{count: count, until: now.Add(d), inRow: r.inRow + 1}
}

// limit returns n, lowered while the refusal counts.
func (r refusal) limit(n int, now time.Time) int {
	if now.Before(r.until) {
		return min(n, r.count)
	}
	return n
}

// slotKey identifies the slots of one family on an ENI.
type slotKey struct {
	eni    string
	family Family
}

// dropRefusals drops the refusals that the inventory contradicts. The caller holds
// m.mu.
func (m *Manager) dropRefusals() {
	for key, r := range m.slotRefusals {
		if e, ok := m.inv.ENI(key.eni); !ok || e.Slots(key.family) != r.count {
			delete(m.slotRefusals, key)
		}
	}
	onCard := map[int]int{}
	for _, e := range m.inv.ENIs {
		onCard[e.Card]++
	}
	for card, r := range m.cardRefusals {
		if onCard[card] > r.count {
			delete(m.cardRefusals, card)
		}
	}
	for p, at := range m.foreignPlaces {
		if m.inv.EC2At.After(at.Add(m.cfg.Lag)) {
			delete(m.foreignPlaces, p)
		}
	}
}

// afterSlotRefusal handles an assign call that EC2 refused because the ENI is full,
// although the inventory shows free slots. Either the ENI has more blocks than are
// known, which a describe call shows, or it takes fewer than its type allows. In
// the first case it requests the slots that remain, in the second case one slot.
// It returns the blocks of that call, or else the refusal, which it then records.
func (m *Manager) afterSlotRefusal(ctx context.Context, e ENI, f Family, a attempt, refused error) ([]netip.Prefix, error) {
	known, fewer, foundMore := e.Slots(f), 1, false
	if now, found, err := m.ec2.describeENI(ctx, e.ID); err == nil && found {
		now = now.withOwn(e.Addr, e.Addr6)
		foundMore = m.addDoubtful(e, now)
		if n := now.Slots(f); n != known {
			m.mu.Lock()
			fewer = m.limits.SlotsPerENI() - n
			m.mu.Unlock()
		}
	}
	if latest, ok := m.Inventory().ENI(e.ID); ok {
		e = latest
	}
	if fewer = min(fewer, max(a.Prefixes, a.Singles)-1); fewer > 0 {
		if a.Prefixes > 0 {
			a.Prefixes = fewer
		} else {
			a.Singles = fewer
		}
		got, err := m.assignOnce(ctx, e, f, a)
		if err == nil || reasonOf(err) != ReasonSlotLimit {
			return got, err
		}
		refused = err
	}
	if foundMore {
		return nil, refused // the limit is right; the known count was wrong and is now corrected
	}
	var op *OpError
	key, at := slotKey{e.ID, f}, time.Now()
	defer m.storeLearned(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.slotRefusals[key].next(e.Slots(f), at, slotRefusalFirst, slotRefusalMost)
	m.slotRefusals[key] = next
	m.learnFromAssign(f, e.Slots(f), at)
	if errors.As(refused, &op) {
		op.retryAfter = next.until.Sub(at)
	}
	return nil, refused
}

// addDoubtful adds the unknown blocks that EC2 shows on an ENI to the inventory, in
// doubt until a Discover has asked both sources. It reports whether there are any.
func (m *Manager) addDoubtful(e, now ENI) bool {
	added := m.newBlocks(now, Intent{ENI: e.ID, Before: slices.Concat(e.Blocks(), e.Doubtful)})
	if len(added) == 0 {
		return false
	}
	m.changeENI(e.ID, func(e *ENI) {
		for _, b := range added {
			e.removeBlock(b)
			e.Doubtful = append(e.Doubtful, b)
		}
	})
	return true
}
