// SPDX-License-Identifier: Apache-2.0

package warmpool

import "cmp"

// AzureV2 is the proactive scaler of Azure CNS. The target supply depends only on
// the pods of the node. It is a number of whole batches B that leaves at least
// the fraction f of a batch free:
//
//	Min = GrowTo = Max = ShrinkTo = min(Max, B x ceil(f + demand/B))
//
//	demand (B = 16, f = 50 %)   0   8   9  16  24  25  40  41  250
//	target                     16  16  32  32  32  48  48  64  250
//
// AzureV2 releases exactly the surplus, or nothing if fewer slots are free. In an
// exhausted subnet the target is demand + 1. There is no dead band at the
// boundary of a batch: each change from 24 to 25 pods adds a batch, and each
// change back releases it.
type AzureV2 struct {
	// Batch is B in addresses. Zero means 16.
	Batch int
	// RequestPercent is f in percent. Zero means 50.
	RequestPercent int
	// Max is the most addresses that the pool may have. Zero means 250.
	Max int
}

// Decide implements Policy.
func (p AzureV2) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	batch, percent := cmp.Or(p.Batch, 16), cmp.Or(p.RequestPercent, 50)
	demand := v.Assigned + s.Demand.Pending()
	if s.Subnet.Exhausted {
		batch, percent = 1, 100
	}
	target := min(cmp.Or(p.Max, 250), batch*ceilDiv(100*demand+percent*batch, 100*batch))
	d.Short, d.Over = Corridor{Min: target, GrowTo: target, Max: target, ShrinkTo: target}.Slots(v)
	d.Explanation = Because("batch %d, request threshold %d %%: target %d for a demand of %d, have %d",
		batch, percent, target, demand, v.Usable())
	d.Actions = Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	if d.Over > 0 && d.Over == (v.Usable()-target)/v.Unit {
		d.Actions = Placer{}.Shrink(d.Actions, &s, d.Over, d.Explanation)
	}
	return d
}

// AzureV1 is the reactive scaler of Azure CNS: a dead band of free addresses, and
// steps of one batch up or down. With R usable and A assigned addresses:
//
//	Min    = A + B x request%        GrowTo   = R + B - R mod B
//	Max    = A + B x release% - 1    ShrinkTo = R - (R mod B, or B)
//
//	  R    A | R' (B = 16, 50 and 150 %: 8 to 23 free)
//	 16    8 | 16
//	 16    9 | 32
//	 32    9 | 32
//	 32    8 | 16
//	 20   13 | 32
//	250  200 | 240
//
// In an exhausted subnet B = 1 and the band is 1 free address.
type AzureV1 struct {
	// Batch is B in addresses. Zero means 16.
	Batch int
	// RequestPercent and ReleasePercent are the ends of the band in percent of a
	// batch. Zero means 50 and 150. ReleasePercent is raised to at least
	// RequestPercent + 100.
	RequestPercent, ReleasePercent int
	// Max is the most addresses that the pool may have. Zero means 250.
	Max int
}

// Decide implements Policy.
func (p AzureV1) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	most := cmp.Or(p.Max, 250)
	batch := min(max(1, cmp.Or(p.Batch, 16)), most)
	request := min(max(1, cmp.Or(p.RequestPercent, 50)), 100)
	release := max(cmp.Or(p.ReleasePercent, 150), request+100)
	minFree, maxFree := (batch*request+50)/100, (batch*release+50)/100
	if s.Subnet.Exhausted {
		batch, minFree, maxFree = 1, 1, 2
	}
	usable := v.Usable()
	up := min(most, usable+batch-usable%batch)
	down := usable - cmp.Or(usable%batch, batch)
	c := Corridor{Min: v.Assigned + minFree, GrowTo: up, Max: v.Assigned + maxFree - 1, ShrinkTo: down}
	if usable >= most {
		c.Min = 0
	}
	if usable < c.Min {
		c.Min = up
	}
	d.Short, d.Over = c.Slots(v)
	d.Explanation = Because("batch %d, free %d of %d: fewer than %d free go up to %d, %d or more go down to %d",
		batch, usable-v.Assigned, usable, minFree, up, maxFree, down)
	d.Actions = Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	d.Actions = Placer{}.Shrink(d.Actions, &s, d.Over, d.Explanation)
	return d
}
