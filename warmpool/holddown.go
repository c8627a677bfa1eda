// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// HoldDown delays the releases of a policy until the policy has asked for a
// release without interruption for some time. Short drops in demand then cost no
// calls, even if the policy has no dead band.
type HoldDown struct {
	Policy Policy
	// For is how long the policy must ask for a release. Zero changes nothing.
	For time.Duration
}

// Decide implements Policy.
func (w HoldDown) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := decide(w.Policy, s)
	n := released(d.Actions)
	switch since := m.Times[0]; {
	case n == 0 && d.Over == 0:
		m.Times[0] = time.Time{}
	case since.IsZero():
		m.Times[0] = s.Now
	}
	if passed := s.since(m.Times[0]); n > 0 && passed < w.For {
		d.Actions = trim(d.Actions, false, n)
		d.Capped = Because("release of %d slots held down for %d s of %d s", n, int(passed.Seconds()), int(w.For.Seconds()))
		d.Next = sooner(d.Next, w.For-passed)
	}
	d.Memory = m.wrap(d.Memory)
	return d
}
