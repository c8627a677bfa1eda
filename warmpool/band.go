// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Band is the default policy: a dead band of free addresses. The pool grows in
// batches, and shrinks only after a surplus has lasted. The zero value is ready to
// use.
//
// Demand D counts the pods that have an address and those known to need one. The
// pool grows as soon as fewer than Low addresses are free. It grows to the next
// multiple of Batch, so that one call also fetches addresses for the next pods:
//
//	Min = D + Low     GrowTo   = ShrinkTo = Min rounded up to a multiple of Batch
//	                  Max      = D + High
//
// The pool shrinks after more than High addresses have been free for all of
// HoldDown. It then releases the least surplus of that time, not the surplus at
// its end. High is at least Low + Batch - 1, so growth by a batch never leaves the
// band. With the defaults a pod that starts and stops costs no call.
//
//	 T   D | Low 1, High 9, Batch 4
//	 0   0 | grow to 4
//	 4   3 | nothing: 1 is free
//	 4   4 | grow to 8
//	 8   0 | nothing: 8 free are in the band
//	16   6 | 10 free: after 5 minutes of that down to 8
//
// A burst of pods costs one call for each ENI, because waiting pods count as
// demand. An ENI without slots stays attached for KeepENI: to assign slots to it
// takes one call of about a second, but a new ENI takes three calls and several
// seconds.
//
// While the subnet is exhausted, Band keeps one free address, does not round up to
// batches, holds a surplus for a sixth of HoldDown, and does not keep empty ENIs.
type Band struct {
	// Low is the number of free addresses below which the pool grows. Zero
	// means 1. A negative value means 0: the pool then grows only for pending
	// pods.
	Low int
	// High is the number of free addresses above which the pool shrinks. Zero
	// means Low + 8, for prefixes Low + 16. It is raised to at least
	// Low + Batch - 1.
	High int
	// Batch is the number of addresses to which the pool size is rounded up. Zero
	// means 4, for prefixes one prefix.
	Batch int
	// HoldDown is how long a surplus must last before any of it is released.
	// Zero means 5 minutes.
	HoldDown time.Duration
	// KeepENI is how long an ENI without any slot stays attached. Zero means
	// 30 minutes.
	KeepENI time.Duration
	// Warmup is the number of addresses that a new node gets before its first
	// pod. It has no effect once the node has had them. Zero means none.
	Warmup int
}

// The defaults were chosen with package sim; docs/warm-pool.md has the figures.
const (
	bandLow      = 1
	bandWidth    = 8
	bandBatch    = 4
	bandHoldDown = 5 * time.Minute
	bandKeepENI  = 30 * time.Minute
)

// These are the indexes of Band's values in Memory.
const (
	// Times: when the surplus began, and when an ENI became empty.
	bandSurplus, bandEmpty = 0, 1
	// Counts: 1 once the warm-up is over, and the least surplus since bandSurplus.
	bandWarm, bandLeast = 0, 1
)

// bandLimits are Band's numbers after defaults and the state of the subnet.
type bandLimits struct {
	low, high, batch int
	hold, keep       time.Duration
}

func (p Band) limits(s *Snapshot, unit int) bandLimits {
	if s.Subnet.Exhausted {
		low := min(1, max(0, cmp.Or(p.Low, bandLow)))
		return bandLimits{low: low, high: low + unit, batch: unit, hold: cmp.Or(p.HoldDown, bandHoldDown) / 6}
	}
	l := bandLimits{
		low:   max(0, cmp.Or(p.Low, bandLow)),
		batch: cmp.Or(p.Batch, max(bandBatch, unit)),
		hold:  cmp.Or(p.HoldDown, bandHoldDown),
		keep:  cmp.Or(p.KeepENI, bandKeepENI),
	}
	if unit == 1 {
		l.batch = min(l.batch, max(1, s.Limits.SlotsPerENI))
	}
	l.high = max(cmp.Or(p.High, l.low+max(bandWidth, unit)), l.low+l.batch-1)
	return l
}

// Decide implements Policy.
func (p Band) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	l := p.limits(&s, v.Unit)
	demand := v.Assigned + s.Demand.Pending()
	want := demand + l.low
	if m := &d.Memory; m.Counts[bandWarm] == 0 {
		if v.Usable() >= p.Warmup {
			m.Counts[bandWarm] = 1
		}
		want = max(want, p.Warmup)
	}
	target := alignUp(want, l.batch)
	c := Corridor{Min: want, GrowTo: target, Max: max(target, demand+l.high), ShrinkTo: target}
	d.Short, d.Over = c.Slots(v)
	d.Explanation = Because("%d free of %d usable, band %d to %d in batches of %d: demand %d = %d assigned + %d pending",
		v.Free(), v.Usable(), l.low, l.high, l.batch, demand, v.Assigned, s.Demand.Pending())
	d.Actions = Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	p.release(&s, &d, l.hold)
	p.deleteEmpty(&s, &d, l.keep)
	return d
}

// release gives the least surplus of the hold-down back when the hold-down ends.
func (p Band) release(s *Snapshot, d *Decision, hold time.Duration) {
	since, least := &d.Memory.Times[bandSurplus], &d.Memory.Counts[bandLeast]
	if d.Over == 0 {
		*since = time.Time{}
		return
	}
	if since.IsZero() {
		*since, *least = s.Now, d.Over
	}
	*least = min(*least, d.Over)
	if passed := s.Now.Sub(*since); passed < hold {
		d.Next = hold - passed
		return
	}
	d.Actions = Placer{KeepENIs: true}.Shrink(d.Actions, s, *least, d.Explanation)
	*since = time.Time{}
	d.Next = hold
}

// deleteEmpty deletes an ENI that has had no slots for the time keep.
func (p Band) deleteEmpty(s *Snapshot, d *Decision, keep time.Duration) {
	m := &d.Memory
	var empty *ENI
	for i := range s.ENIs {
		if e := &s.ENIs[i]; e.idle() && e.Slots == 0 && !touches(d.Actions, e.ID) {
			empty = e
		}
	}
	if empty == nil {
		m.Times[bandEmpty] = time.Time{}
		return
	}
	if m.Times[bandEmpty].IsZero() {
		m.Times[bandEmpty] = s.Now
	}
	if passed := s.since(m.Times[bandEmpty]); passed < keep {
		d.Next = sooner(d.Next, keep-passed)
		return
	}
	m.Times[bandEmpty] = time.Time{}
	d.Actions = append(d.Actions, Action{Op: OpDelete, ENI: empty.ID, Explanation: Because("the ENI has had no slots for %d s", int(keep.Seconds()))})
}
