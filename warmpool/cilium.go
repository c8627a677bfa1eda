// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Cilium keeps the watermarks of Cilium's ENI mode. With T usable addresses,
// A of them assigned, it needs
//
//	needed = max(PreAllocate - (T-A), MinAllocate - T)
//
// and, when it calls at all, takes MaxAboveWatermark more, and more again if
// more pods wait than that. What is too many depends on base = MinAllocate +
// MaxAboveWatermark: a small pool may keep base, a larger one
// A + PreAllocate + MaxAboveWatermark. As a corridor:
//
//	Min      = max(A + PreAllocate, MinAllocate)
//	GrowTo   = Min + MaxAboveWatermark + surge
//	Max      = ShrinkTo = base if A + PreAllocate <= base, else A + PreAllocate + MaxAboveWatermark
//
//	 pre min maw |  T   A | needed excess
//	   8   0   0 |  8   3 |      3      0
//	   8   0   0 | 30   5 |      0     17
//	   8  10   6 |  0   0 |     10      0
//	   8  10   6 | 24   4 |      0      8
//	   8  10   6 | 30  12 |      0      4
//
// The excess rule is that of newer versions; older ones lack the middle case.
type Cilium struct {
	// PreAllocate is the number of free addresses wanted. Zero means 8; it is
	// lowered to what a small instance can have.
	PreAllocate int
	// MinAllocate is the number of addresses wanted in all; MaxAllocate, if
	// not zero, the most that there may be.
	MinAllocate, MaxAllocate int
	// MaxAboveWatermark is how many more addresses a call takes once there is
	// one, and how many too many are left alone.
	MaxAboveWatermark int
	// Release gives the excess back; by default nothing ever is.
	Release bool
	// ReleaseAfter is how long an excess must last. Zero means 180 s.
	ReleaseAfter time.Duration
}

// Decide implements Policy. ENIs are never deleted, and at most one call is
// made before the next look.
func (p Cilium) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	pre := min(cmp.Or(p.PreAllocate, 8), s.Limits.MaxENIs*s.Limits.SlotsPerENI*v.Unit)
	need := max(v.Assigned+pre, p.MinAllocate)
	if p.MaxAllocate > 0 {
		need = min(need, p.MaxAllocate)
	}
	keep := v.Assigned + pre + p.MaxAboveWatermark
	if base := p.MinAllocate + p.MaxAboveWatermark; v.Assigned+pre <= base {
		keep = base
	}
	surge := max(0, s.Demand.Pending()-max(0, need-v.Usable()))
	grow := need + p.MaxAboveWatermark + surge
	if p.MaxAllocate > 0 {
		grow = min(grow, p.MaxAllocate)
	}
	d.Short, d.Over = Corridor{Min: need, GrowTo: need, Max: max(keep, need), ShrinkTo: keep}.Slots(v)
	d.Reason = Because("pre-allocate %d, min-allocate %d, max-above-watermark %d: need %d, keep at most %d, have %d, %d assigned, surge %d",
		pre, p.MinAllocate, p.MaxAboveWatermark, need, keep, v.Usable(), v.Assigned, surge)
	if d.Short > 0 {
		d.Actions = Placement{OneStep: true}.Grow(nil, &s, ceilDiv(grow-v.Usable(), v.Unit), d.Reason)
	}
	if p.Release {
		held(&s, &d, Placement{KeepENIs: true}, cmp.Or(p.ReleaseAfter, 180*time.Second))
	}
	return d
}

// held fills d with the release of d.Over, once that has been positive for the
// time given. It uses the first time of the memory.
func held(s *Snapshot, d *Decision, place Placement, hold time.Duration) {
	since := &d.Memory.Times[0]
	if d.Over == 0 {
		*since = time.Time{}
		return
	}
	if since.IsZero() {
		*since = s.Now
	}
	if passed := s.Now.Sub(*since); passed < hold {
		d.Next = hold - passed
		return
	}
	d.Actions = place.Shrink(d.Actions, s, d.Over, d.Reason)
}
