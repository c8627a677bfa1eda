// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Terway implements the band of idle addresses of Terway. With A assigned
// addresses and u waiting pods, the corridor is
//
//	Min = GrowTo   = A + u + MinIdle
//	Max = ShrinkTo = A + u + MaxIdle
//
// Terway applies it once every SyncEvery. It fetches addresses for waiting pods at
// once, at most PerCall in each call.
//
//	min 5, max 10    idle   0   3  12  10   7
//	                 add    5   2   0   0   0
//	                 drop   0   0   2   0   0
//
// Reclaim also shrinks a pool inside the band. When no pod has started or stopped
// for ReclaimAfter, Terway releases up to ReclaimBatch idle addresses above MinIdle
// every ReclaimEvery:
//
//	min 5, max 10, batch 5    idle   4   7  10  13  20
//	                          drop   0   2   5   8  15
//
// The original counts waiting pods twice when no address is idle; this policy
// counts them once.
type Terway struct {
	// MinIdle and MaxIdle are the ends of the band. MaxIdle is raised to at least
	// MinIdle.
	MinIdle, MaxIdle int
	// SyncEvery is the time between two applications of the band. Zero means
	// 120 s.
	SyncEvery time.Duration
	// PerCall is the most slots of one call. Zero means 10.
	PerCall int
	// ReclaimAfter turns reclaim on if not zero. Zero means 10 minutes for
	// ReclaimEvery and 5 for ReclaimBatch.
	ReclaimAfter, ReclaimEvery time.Duration
	ReclaimBatch               int
	// WarmUp is the number of addresses that a new node gets once.
	WarmUp int
}

// These are the indexes of Terway's values in Memory. Times: the last application
// of the band, the last change of the number of pods, the last reclaim. Counts: 1
// once the warm-up is over, and 1 + the last number of pods.
const (
	terwaySync, terwayChange, terwayReclaim = 0, 1, 2
	terwayWarm, terwaySeen                  = 0, 1
)

// Decide implements Policy.
func (p Terway) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	m := &d.Memory
	if seen := v.Assigned + 1; m.Counts[terwaySeen] != seen {
		m.Counts[terwaySeen], m.Times[terwayChange] = seen, s.Now
		m.Times[terwayReclaim] = time.Time{}
	}
	if v.Usable() >= p.WarmUp {
		m.Counts[terwayWarm] = 1
	}
	waiting := s.Demand.Pending()
	need := v.Assigned + waiting
	if m.Counts[terwayWarm] == 0 {
		need = max(need, p.WarmUp)
	}
	highest := max(p.MaxIdle, p.MinIdle)
	c := Corridor{Min: need, GrowTo: need, Max: v.Usable(), ShrinkTo: v.Usable()}
	every := cmp.Or(p.SyncEvery, 2*time.Minute)
	last := m.Times[terwaySync]
	due := last.IsZero() || s.Now.Sub(last) >= every
	band := Corridor{Min: max(need, v.Assigned+waiting+p.MinIdle), Max: max(need, v.Assigned+waiting+highest)}
	band.GrowTo, band.ShrinkTo = band.Min, band.Max
	short, over := band.Slots(v)
	switch {
	case short == 0 && over == 0:
	case due:
		m.Times[terwaySync] = s.Now
		c = band
	default:
		d.Next = every - s.Now.Sub(last)
	}
	d.Short, d.Over = c.Slots(v)
	d.Over = max(d.Over, p.reclaim(&s, &d, v, band))
	d.Explanation = Because("idle %d, band %d to %d, %d wait: %d assigned of %d",
		v.Free(), p.MinIdle, highest, waiting, v.Assigned, v.Usable())
	if d.Short > 0 {
		d.Over = 0
	}
	d.Actions = perCall(Placer{}.Grow(nil, &s, d.Short, d.Explanation), cmp.Or(p.PerCall, 10))
	d.Actions = Placer{}.Shrink(d.Actions, &s, d.Over, d.Explanation)
	return d
}

// reclaim returns the number of slots to release because no pod has started or
// stopped for a long time.
func (p Terway) reclaim(s *Snapshot, d *Decision, v Supply, band Corridor) int {
	m := &d.Memory
	if p.ReclaimAfter == 0 || v.Usable() <= band.Min || v.FreeSlots == 0 {
		return 0
	}
	at := m.Times[terwayChange].Add(p.ReclaimAfter)
	if last := m.Times[terwayReclaim]; !last.IsZero() {
		at = last.Add(cmp.Or(p.ReclaimEvery, 10*time.Minute))
	}
	if s.Now.Before(at) {
		d.Next = sooner(d.Next, at.Sub(s.Now))
		return 0
	}
	m.Times[terwayReclaim] = s.Now
	keep := min(v.Usable(), band.Max)
	keep = max(band.Min, keep-cmp.Or(p.ReclaimBatch, 5))
	n := min(v.FreeSlots, (v.Usable()-keep)/v.Unit)
	if v.Usable()-n*v.Unit >= band.Min+v.Unit {
		d.Next = sooner(d.Next, cmp.Or(p.ReclaimEvery, 10*time.Minute))
	}
	return n
}

// perCall splits assignments into calls of at most n slots.
func perCall(actions []Action, n int) []Action {
	for i := 0; i < len(actions); i++ {
		if a := actions[i]; a.Op == OpAssign && a.N > n {
			rest := a
			rest.N -= n
			actions[i].N = n
			actions = append(actions, Action{})
			copy(actions[i+2:], actions[i+1:])
			actions[i+1] = rest
		}
	}
	return actions
}
