// SPDX-License-Identifier: Apache-2.0

package warmpool

// Placer turns numbers of slots into actions on ENIs. The zero value fills the
// existing ENIs in device order before it creates more, and deletes whole ENIs
// before it unassigns single slots.
type Placer struct {
	// OneStep limits growth to one action, for policies that decide again after
	// each call.
	OneStep bool
	// KeepENIs prevents the deletion of ENIs.
	KeepENIs bool
}

// Grow appends actions that add n slots, each with the explanation why. It adds
// fewer slots if the card has no room for n. Slots that fit on an ENI that is
// being created wait until the ENI exists.
func (p Placer) Grow(dst []Action, s *Snapshot, n int, why Explanation) []Action {
	for i := range s.ENIs {
		if n <= 0 {
			return dst
		}
		e := &s.ENIs[i]
		room := s.room(e)
		if room == 0 {
			continue
		}
		k := min(n, room)
		n -= k
		if e.ID == "" {
			continue
		}
		dst = append(dst, Action{Op: OpAssign, ENI: e.ID, N: k, Explanation: why})
		if p.OneStep {
			return dst
		}
	}
	for left := s.Limits.MaxENIs - len(s.ENIs); n > 0 && left > 0 && s.Limits.SlotsPerENI > 0; left-- {
		k := min(n, s.Limits.SlotsPerENI)
		dst = append(dst, Action{Op: OpCreate, N: k, Explanation: why})
		n -= k
		if p.OneStep {
			return dst
		}
	}
	return dst
}

// Shrink appends actions that give n slots back, each with the explanation why.
// It gives back fewer slots if fewer are free.
func (p Placer) Shrink(dst []Action, s *Snapshot, n int, why Explanation) []Action {
	first := len(dst)
	for i := len(s.ENIs) - 1; i >= 0 && n > 0 && !p.KeepENIs; i-- {
		e := &s.ENIs[i]
		if e.idle() && e.Slots <= n {
			dst = append(dst, Action{Op: OpDelete, ENI: e.ID, N: e.Slots, Explanation: why})
			n -= e.Slots
		}
	}
	return unassign(dst, first, s, n, why)
}

// unassign appends actions that give n single slots back, from ENIs that the
// actions from index first on do not name.
func unassign(dst []Action, first int, s *Snapshot, n int, why Explanation) []Action {
	for n > 0 {
		e, free := emptiest(s, dst[first:])
		if e == nil {
			break
		}
		k := min(free, n)
		dst = append(dst, Action{Op: OpUnassign, ENI: e.ID, N: k, Explanation: why})
		n -= k
	}
	return dst
}

// emptiest returns the ENI to take single slots from and its number of free slots:
// the ENI with the fewest pods, so that all of it becomes free, and the primary
// ENI last. It skips the ENIs of the actions in done.
func emptiest(s *Snapshot, done []Action) (best *ENI, free int) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.NoPods || touches(done, e.ID) {
			continue
		}
		if _, f := e.idleSlots(s.unit()); f > 0 && (best == nil || emptier(e, best)) {
			best, free = e, f
		}
	}
	return best, free
}

func emptier(a, b *ENI) bool {
	if a.Primary != b.Primary {
		return b.Primary
	}
	return a.Assigned+a.Cooling < b.Assigned+b.Cooling
}

// idle reports whether the ENI may be deleted.
func (e *ENI) idle() bool {
	return e.ID != "" && !e.Primary && !e.NoPods && e.Assigned == 0 && e.Cooling == 0 && e.PendingSlots == 0
}
