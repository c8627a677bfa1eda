// SPDX-License-Identifier: Apache-2.0

package warmpool

// Corridor is the common form of the policies of this package. The usable supply,
// in addresses, may vary between Min and Max without any action. Below Min the
// pool grows to GrowTo, above Max it shrinks to ShrinkTo. If Min equals Max there
// is no dead band, and each pod that starts or stops costs a call. Policies differ
// in where they put these four numbers.
type Corridor struct {
	Min, GrowTo   int
	Max, ShrinkTo int
}

// Slots returns the number of missing slots, rounded up, and the number of
// surplus free slots, rounded down. Both roundings keep addresses: a prefix is
// surplus only if the pool stays at or above ShrinkTo without it.
func (c Corridor) Slots(s Supply) (short, over int) {
	usable, unit := s.Usable(), max(s.Unit, 1)
	switch {
	case usable < c.Min:
		return ceilDiv(max(c.GrowTo, c.Min)-usable, unit), 0
	case usable > c.Max:
		return 0, max(0, min(s.FreeSlots, (usable-max(c.ShrinkTo, c.Min))/unit))
	}
	return 0, 0
}
