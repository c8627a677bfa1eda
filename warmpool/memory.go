// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Memory carries the state of a policy from one decision to the next: times and
// counters that each policy uses in its own way. It is a plain value, so that a
// caller can store it and replay a decision exactly.
type Memory struct {
	Times  [3]time.Time `json:"times"`
	Counts [16]int      `json:"counts"`
	// Inner holds the memories of wrapped policies.
	Inner []Memory `json:"inner,omitempty"`
}

// inner returns the memory of the i-th wrapped policy.
func (m Memory) inner(i int) Memory {
	if i < len(m.Inner) {
		return m.Inner[i]
	}
	return Memory{}
}

// wrap returns a wrapper's memory with the memories of its wrapped policies.
func (m Memory) wrap(inner ...Memory) Memory {
	m.Inner = inner
	return m
}

// decideInner runs p, the i-th of n wrapped policies, with its part of m.
func decideInner(s Snapshot, m Memory, i, n int, p Policy) Decision {
	s.Memory = m.inner(i)
	d := decide(p, s)
	inner := make([]Memory, n)
	copy(inner, m.Inner)
	inner[i] = d.Memory
	d.Memory = m.wrap(inner...)
	return d
}
