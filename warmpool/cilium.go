// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Cilium implements the watermarks of Cilium's ENI mode. With T usable and A
// assigned addresses it needs
//
//	needed = max(PreAllocate - (T-A), MinAllocate - T)
//
// more addresses. If it needs any, it takes MaxAboveWatermark more, and a surge if
// more pods are pending than needed. The excess depends on base = MinAllocate +
// MaxAboveWatermark: a small pool may keep base addresses, a larger one A +
// PreAllocate + MaxAboveWatermark. As a corridor:
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
// The excess rule is the one of newer Cilium versions; older ones lack the middle
// case.
type Cilium struct {
	// PreAllocate is the target number of free addresses. Zero means 8. It is
	// reduced to the capacity of the card.
	PreAllocate int
	// MinAllocate is the least number of addresses in all. MaxAllocate is the
	// most, if not zero.
	MinAllocate, MaxAllocate int
	// MaxAboveWatermark is the number of addresses that a call fetches in
	// addition to the needed ones, and the excess that is not released.
	MaxAboveWatermark int
	// Release turns on the release of the excess. By default nothing is released.
	Release bool
	// ReleaseAfter is how long an excess must last before it is released. Zero
	// means 180 s.
	ReleaseAfter time.Duration
}

// Decide implements Policy. It deletes no ENIs, and grows by at most one call a
// decision.
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
	d.Explanation = Because("pre-allocate %d, min-allocate %d, max-above-watermark %d: need %d, keep at most %d, have %d, %d assigned, surge %d",
		pre, p.MinAllocate, p.MaxAboveWatermark, need, keep, v.Usable(), v.Assigned, surge)
	if d.Short > 0 {
		d.Actions = Placer{OneStep: true}.Grow(nil, &s, ceilDiv(grow-v.Usable(), v.Unit), d.Explanation)
	}
	if p.Release {
		p.release(&s, &d)
	}
	return d
}

// release adds the release of the excess d.Over to d once it has lasted for
// ReleaseAfter. It stores the start of the excess in the first time of the memory.
func (p Cilium) release(s *Snapshot, d *Decision) {
	hold := cmp.Or(p.ReleaseAfter, 180*time.Second)
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
	d.Actions = Placer{KeepENIs: true}.Shrink(d.Actions, s, d.Over, d.Explanation)
}
