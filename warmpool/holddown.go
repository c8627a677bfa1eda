// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// HoldDown lets a policy give back only what it has wanted to give back
// without a break for a time. It turns a policy without a dead band into one
// that rides out short lows.
type HoldDown struct {
	Policy Policy
	// For is how long the wish to release must last. Zero changes nothing.
	For time.Duration
}

// Decide implements Policy.
func (w HoldDown) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := w.Policy.Decide(s)
	n := released(d.Actions)
	switch since := m.Times[0]; {
	case n == 0 && d.Over == 0:
		m.Times[0] = time.Time{}
	case since.IsZero():
		m.Times[0] = s.Now
	}
	if passed := s.since(m.Times[0]); n > 0 && passed < w.For {
		d.Actions = trim(d.Actions, false, n)
		d.Capped = Because("giving %d slots back is held down: wanted for %d s of %d s", n, int(passed.Seconds()), int(w.For.Seconds()))
		d.Next = sooner(d.Next, w.For-passed)
	}
	d.Memory = m.wrap(d.Memory)
	return d
}

// wrap makes the memory of a wrapper out of its own and the inner ones.
func (m Memory) wrap(inner ...Memory) Memory {
	m.Inner = inner
	return m
}

// added and released sum the slots of the actions.
func added(actions []Action) int { return total(actions, true) }

func released(actions []Action) int { return total(actions, false) }

func total(actions []Action, grows bool) int {
	n := 0
	for _, a := range actions {
		if a.Op.grows() == grows {
			n += a.N
		}
	}
	return n
}

// trim takes n slots out of the growing or the releasing actions, the last
// ones first, and returns a new slice. A deletion goes as a whole or not at
// all, so more than n may go.
func trim(actions []Action, grows bool, n int) []Action {
	out := make([]Action, 0, len(actions))
	for i := len(actions) - 1; i >= 0; i-- {
		a := actions[i]
		if a.Op.grows() == grows && n > 0 {
			cut := min(n, a.N)
			if a.Op == OpDelete {
				cut = a.N
			}
			n -= cut
			if a.N -= cut; a.N == 0 {
				continue
			}
		}
		out = append(out, a)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
