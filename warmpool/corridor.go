// SPDX-License-Identifier: Apache-2.0

package warmpool

// Corridor is the shape that all policies here share: the usable supply, in
// addresses, may wander between Min and Max without anything being done. Below
// Min the pool grows to GrowTo, above Max it shrinks to ShrinkTo. If Min and
// Max are the same there is no dead band, and each pod that comes or goes costs
// a call; what a policy is, is where it puts these four numbers.
type Corridor struct {
	Min, GrowTo   int
	Max, ShrinkTo int
}

// Slots turns the corridor into slots: how many are missing, rounded up, and
// how many wholly free ones are too many, rounded down. Rounding goes the way
// that keeps addresses, so a prefix is given back only if the pool stays at or
// above ShrinkTo without it.
func (c Corridor) Slots(s Supply) (short, over int) {
	usable := s.Usable()
	switch {
	case usable < c.Min:
		return ceilDiv(max(c.GrowTo, c.Min)-usable, s.Unit), 0
	case usable > c.Max:
		return 0, max(0, min(s.FreeSlots, (usable-max(c.ShrinkTo, c.Min))/s.Unit))
	}
	return 0, 0
}
