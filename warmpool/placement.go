// SPDX-License-Identifier: Apache-2.0

package warmpool

// Placement turns numbers of slots into actions on ENIs. The zero value fills
// the ENIs that exist in device order before it creates more, and gives whole
// ENIs back before single slots.
type Placement struct {
	// OneStep stops growth after the first action, for policies that look
	// again after each call.
	OneStep bool
	// KeepENIs never deletes an ENI.
	KeepENIs bool
}

// Grow appends the actions that add n slots, each with the reason given. It
// appends fewer if the card has no room for all, and leaves what fits on an ENI
// that is being created until that is there.
func (p Placement) Grow(dst []Action, s *Snapshot, n int, why Reason) []Action {
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
		dst = append(dst, Action{Op: OpAssign, ENI: e.ID, N: k, Reason: why})
		if p.OneStep {
			return dst
		}
	}
	for left := s.Limits.MaxENIs - len(s.ENIs); n > 0 && left > 0 && s.Limits.SlotsPerENI > 0; left-- {
		k := min(n, s.Limits.SlotsPerENI)
		dst = append(dst, Action{Op: OpCreate, N: k, Reason: why})
		n -= k
		if p.OneStep {
			return dst
		}
	}
	return dst
}

// Shrink appends the actions that give n slots back, each with the reason
// given. It appends fewer if not so many are free.
func (p Placement) Shrink(dst []Action, s *Snapshot, n int, why Reason) []Action {
	first := len(dst)
	for i := len(s.ENIs) - 1; i >= 0 && n > 0 && !p.KeepENIs; i-- {
		e := &s.ENIs[i]
		if e.idle() && e.Slots <= n {
			dst = append(dst, Action{Op: OpDelete, ENI: e.ID, N: e.Slots, Reason: why})
			n -= e.Slots
		}
	}
	return unassign(dst, first, s, n, why)
}

// unassign appends the actions that give n single slots back, from ENIs that
// the actions from index first on do not touch yet.
func unassign(dst []Action, first int, s *Snapshot, n int, why Reason) []Action {
	for n > 0 {
		e, free := emptiest(s, dst[first:])
		if e == nil {
			break
		}
		k := min(free, n)
		dst = append(dst, Action{Op: OpUnassign, ENI: e.ID, N: k, Reason: why})
		n -= k
	}
	return dst
}

// emptiest finds the ENI to take single slots from, and how many of them are
// free: the one with the fewest pods, so that it becomes free as a whole, the
// primary ENI last, and none that an action names already.
func emptiest(s *Snapshot, done []Action) (best *ENI, free int) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.NoPods || named(done, e.ID) {
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

func named(actions []Action, eni string) bool {
	for i := range actions {
		if actions[i].ENI == eni {
			return true
		}
	}
	return false
}

// idle reports whether the whole ENI may go.
func (e *ENI) idle() bool {
	return e.ID != "" && !e.Primary && !e.NoPods && e.Assigned == 0 && e.Cooling == 0 && e.PendingSlots == 0
}
