// SPDX-License-Identifier: Apache-2.0

package warmpool

// Shadow decides by Policy, and reports the decision of another policy in
// Decision.Other. The other policy has its own memory, but it sees the pool that
// Policy has made. Its decision shows what it would do now, not the pool that it
// would have by now; package sim shows that.
type Shadow struct {
	Policy, Other Policy
}

// Decide implements Policy.
func (w Shadow) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := decide(w.Policy, s)
	s.Memory = m.inner(1)
	other := Plan(w.Other, s)
	d.Other = &other
	d.Next = sooner(d.Next, other.Next)
	d.Memory = m.wrap(d.Memory, other.Memory)
	return d
}

// Differs reports whether the other policy of a Shadow would add or release a
// different number of slots. Without a Shadow it is false.
func (d Decision) Differs() bool {
	if d.Other == nil {
		return false
	}
	return added(d.Actions) != added(d.Other.Actions) || released(d.Actions) != released(d.Other.Actions)
}
