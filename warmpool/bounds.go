// SPDX-License-Identifier: Apache-2.0

package warmpool

// Bounds keeps the number of usable addresses of a policy between a floor and a
// ceiling. It first cuts the policy's actions, and adds actions only if that is
// not enough.
type Bounds struct {
	Policy Policy
	// Floor is the least number of usable addresses, Ceiling the most. Zero means
	// no bound. With prefixes the floor rounds up to whole prefixes and the ceiling
	// rounds down.
	Floor, Ceiling int
}

// Decide implements Policy.
func (w Bounds) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := decide(w.Policy, s)
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

// atLeast returns the decision, changed to give at least floor usable addresses
// as far as the card has room.
func atLeast(d Decision, s *Snapshot, v Supply, floor int, why Explanation) Decision {
	if n := missing(d.Actions, v, floor); n > 0 {
		d.Capped = why
		raise(&d, s, n, why)
	}
	return d
}

// missing returns the number of slots, at least zero, that are missing to reach
// the floor of usable addresses after the actions.
func missing(actions []Action, v Supply, floor int) int {
	return ceilDiv(floor-v.Usable()-(added(actions)-released(actions))*v.Unit, v.Unit)
}

// raise changes the decision to give n more slots, as far as the card has room.
// It first drops releases, and adds slots only if that is not enough.
func raise(d *Decision, s *Snapshot, n int, why Explanation) {
	if back := released(d.Actions); back > 0 {
		d.Actions = trim(d.Actions, false, min(back, n))
		n -= back - released(d.Actions)
	}
	if n <= 0 {
		return
	}
	// Place all growth again, so that no ENI gets two actions. The other actions
	// left are deletions of ENIs without slots, which may now get some.
	n += added(d.Actions)
	d.Actions = Placer{}.Grow(nil, s, n, why)
	d.Short, d.Over = max(d.Short, n), 0
}

// atMost returns the decision, changed to give at most ceiling usable addresses
// as far as slots are free.
func atMost(d Decision, s *Snapshot, v Supply, ceiling int, why Explanation) Decision {
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
		d.Actions = Placer{}.Shrink(d.Actions, s, surplus, why)
		d.Short, d.Over = 0, max(d.Over, surplus)
	}
	return d
}
