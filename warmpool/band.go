// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Band is the default policy: a dead band of free addresses, filled in batches.
// The zero value is ready to use.
type Band struct {
	// Low is the number of free addresses below which the pool grows, High the
	// number above which it shrinks. Zero means a default; a High below
	// Low + Batch is raised to that, so that a batch never lands outside.
	Low, High int
	// Batch is the number of addresses that growth is aligned to. Zero means
	// what suits the card: a prefix, or 8 addresses if an ENI has that many.
	Batch int
	// HoldDown is how long a surplus must last before any of it is released.
	// Zero means 3 minutes.
	HoldDown time.Duration
	// Warmup is the number of addresses that a new node gets before its first
	// pod; once it has had them, the band rules alone. Zero means none.
	Warmup int
}

const (
	bandLow      = 2
	bandBatch    = 8
	bandHoldDown = 3 * time.Minute
)

// Decide implements Policy.
func (p Band) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	batch := cmp.Or(p.Batch, max(v.Unit, min(bandBatch, s.Limits.SlotsPerENI)))
	low := cmp.Or(p.Low, bandLow)
	high := max(p.High, low+batch)
	hold := cmp.Or(p.HoldDown, bandHoldDown)
	if s.Subnet.Exhausted {
		batch, low, high, hold = v.Unit, min(low, 1), min(low, 1)+v.Unit, hold/6
	}
	demand := v.Assigned + s.Demand.Pending()
	want := demand + low
	if d.Memory.Counts[0] == 0 {
		if v.Usable() >= p.Warmup {
			d.Memory.Counts[0] = 1
		}
		want = max(want, p.Warmup)
	}
	target := alignUp(want, batch)
	c := Corridor{Min: want, GrowTo: target, Max: max(target, demand+high), ShrinkTo: target}
	d.Short, d.Over = c.Slots(v)
	d.Reason = Because("free %d of %d, low %d, high %d: demand %d = %d assigned + %d pending",
		v.Free(), v.Usable(), low, high, demand, v.Assigned, s.Demand.Pending())
	place := Placement{MinAge: time.Minute}
	if d.Over == 0 {
		d.Memory.Times[0] = time.Time{}
		d.Actions = place.Grow(nil, &s, d.Short, d.Reason)
		return d
	}
	if d.Memory.Times[0].IsZero() {
		d.Memory.Times[0] = s.Now
	}
	if passed := s.since(d.Memory.Times[0]); passed < hold {
		d.Next = hold - passed
		return d
	}
	var wait time.Duration
	d.Actions, wait = place.Shrink(nil, &s, d.Over, d.Reason)
	d.Next = wait
	return d
}
