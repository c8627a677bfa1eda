// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Exhaustion runs another policy while the subnet is short of addresses, so that
// the nodes share the remaining ones.
type Exhaustion struct {
	Policy Policy
	// Tight is the policy for a short subnet. It runs with Subnet.Exhausted set.
	// Nil means the zero Band, which then keeps one free address.
	Tight Policy
	// Below switches to Tight when Subnet.Free is known and less than Below.
	// Subnet.Exhausted switches to Tight in any case.
	Below int
	// For is the least time that Tight runs once it has started. Zero means
	// 2 minutes.
	For time.Duration
}

// Decide implements Policy.
func (w Exhaustion) Decide(s Snapshot) Decision {
	m := s.Memory
	hold := cmp.Or(w.For, 2*time.Minute)
	if s.Subnet.Exhausted || s.Subnet.Free > 0 && s.Subnet.Free < w.Below {
		m.Times[0], m.Counts[0] = s.Now, 1
	}
	left := hold - s.Now.Sub(m.Times[0])
	if m.Counts[0] == 0 || left <= 0 {
		m.Counts[0] = 0
		return decideInner(s, m, 0, 2, w.Policy)
	}
	tight := w.Tight
	if tight == nil {
		tight = Band{}
	}
	s.Subnet.Exhausted = true
	d := decideInner(s, m, 1, 2, tight)
	d.Next = sooner(d.Next, left)
	return d
}
