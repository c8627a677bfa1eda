// SPDX-License-Identifier: Apache-2.0

package warmpool

// Bounds keeps the usable addresses that a policy leads to between a floor and
// a ceiling. It cuts what the policy would do too much before it adds anything
// of its own.
type Bounds struct {
	Policy Policy
	// Floor is the least number of usable addresses, Ceiling the most. Zero
	// means none. Whole prefixes round the floor up and the ceiling down.
	Floor, Ceiling int
}

// Decide implements Policy.
func (w Bounds) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := w.Policy.Decide(s)
	v := s.Supply()
	if w.Ceiling > 0 {
		d = atMost(d, &s, v, w.Ceiling, Because("ceiling of %d addresses, %d usable", w.Ceiling, v.Usable()))
	}
	floor := w.Floor
	if w.Ceiling > 0 {
		floor = min(floor, w.Ceiling)
	}
	d = atLeast(d, &s, v, floor, Because("floor of %d addresses, %d usable", floor, v.Usable()))
	d.Memory = m.wrap(d.Memory)
	return d
}

// atLeast changes the decision so that it leads to at least so many usable
// addresses, as far as the card has room.
func atLeast(d Decision, s *Snapshot, v Supply, floor int, why Reason) Decision {
	if n := missing(d.Actions, v, floor); n > 0 {
		d.Capped = why
		raise(&d, s, n, why)
	}
	return d
}

// missing is the number of slots, at least zero, by which the actions lead to
// fewer usable addresses than the floor.
func missing(actions []Action, v Supply, floor int) int {
	return ceilDiv(floor-v.Usable()-(added(actions)-released(actions))*v.Unit, v.Unit)
}

// raise changes the decision so that it leads to n more slots, as far as the
// card has room. It drops what is given back before it adds anything.
func raise(d *Decision, s *Snapshot, n int, why Reason) {
	if back := released(d.Actions); back > 0 {
		d.Actions = trim(d.Actions, false, min(back, n))
		n -= back - released(d.Actions)
	}
	if n <= 0 {
		return
	}
	// Growth is placed anew, so that it does not name an ENI twice. Nothing else
	// is left but deletions of ENIs without slots, which may now get some.
	n += added(d.Actions)
	d.Actions = Placement{}.Grow(nil, s, n, why)
	d.Short, d.Over = max(d.Short, n), 0
}

// atMost changes the decision so that it leads to at most so many usable
// addresses, as far as slots are free.
func atMost(d Decision, s *Snapshot, v Supply, ceiling int, why Reason) Decision {
	after := v.Usable() + (added(d.Actions)-released(d.Actions))*v.Unit
	surplus := ceilDiv(after-ceiling, v.Unit)
	if surplus <= 0 {
		return d
	}
	d.Capped = why
	if n := added(d.Actions); n > 0 {
		d.Actions = trim(d.Actions, true, min(n, surplus))
		surplus -= n - added(d.Actions)
	}
	if surplus > 0 {
		surplus += released(d.Actions)
		d.Actions = trim(d.Actions, false, surplus)
		d.Actions = Placement{}.Shrink(d.Actions, s, surplus, why)
		d.Short, d.Over = 0, max(d.Over, surplus)
	}
	return d
}
