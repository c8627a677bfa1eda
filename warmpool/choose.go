// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// Exhaustion runs another policy while the subnet is short of addresses, so
// that the nodes share what is left.
type Exhaustion struct {
	Policy Policy
	// Tight is the policy for hard times. Nil means the zero Band, which then
	// keeps one free address. It sees Subnet.Exhausted set.
	Tight Policy
	// Below starts the hard times when Subnet.Free is known and lower than
	// this. Subnet.Exhausted starts them in any case.
	Below int
	// For is how long they last at least. Zero means 2 minutes.
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
		return choose(s, m, 0, 2, w.Policy)
	}
	tight := w.Tight
	if tight == nil {
		tight = Band{}
	}
	s.Subnet.Exhausted = true
	d := choose(s, m, 1, 2, tight)
	d.Next = sooner(d.Next, left)
	return d
}

// choose runs the i-th of n policies with its own part of the memory.
func choose(s Snapshot, m Memory, i, n int, p Policy) Decision {
	s.Memory = m.inner(i)
	d := p.Decide(s)
	inner := make([]Memory, n)
	copy(inner, m.Inner)
	inner[i] = d.Memory
	d.Memory = m.wrap(inner...)
	return d
}

// Schedule runs a policy by the time of day.
type Schedule struct {
	// Policy runs when no window is open.
	Policy Policy
	// Windows are tried in order; the first that is open decides.
	Windows []Window
	// Location is whose clock counts. Nil means UTC.
	Location *time.Location
}

// Window is a part of the week.
type Window struct {
	// From and To are times of day, as durations since midnight. If To is not
	// after From the window goes on past midnight.
	From, To time.Duration
	// Days are the days on which the window begins. None means all.
	Days   []time.Weekday
	Policy Policy
}

// Decide implements Policy.
func (w Schedule) Decide(s Snapshot) Decision {
	m := s.Memory
	loc := w.Location
	if loc == nil {
		loc = time.UTC
	}
	now := s.Now.In(loc)
	policy, i := w.Policy, len(w.Windows)
	for k := range w.Windows {
		if w.Windows[k].open(now) {
			policy, i = w.Windows[k].Policy, k
			break
		}
	}
	d := choose(s, m, i, len(w.Windows)+1, policy)
	for _, x := range w.Windows {
		d.Next = sooner(d.Next, untilClock(now, x.From))
		d.Next = sooner(d.Next, untilClock(now, x.To))
	}
	return d
}

const day = 24 * time.Hour

// clock is the time of day.
func clock(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}

// untilClock is the time until the clock next shows t; never zero.
func untilClock(now time.Time, t time.Duration) time.Duration {
	d := (t - clock(now)) % day
	if d <= 0 {
		d += day
	}
	return d
}

func (w Window) open(now time.Time) bool {
	at := clock(now)
	switch {
	case w.From < w.To:
		return at >= w.From && at < w.To && w.begins(now.Weekday())
	case at >= w.From:
		return w.begins(now.Weekday())
	case at < w.To:
		return w.begins((now.Weekday() + 6) % 7)
	}
	return false
}

func (w Window) begins(d time.Weekday) bool {
	for _, x := range w.Days {
		if x == d {
			return true
		}
	}
	return len(w.Days) == 0
}

// Shadow does what Policy says, and reports in Decision.Beside what another
// policy would have done in the same place. The other one sees its own memory,
// but a pool that the first one made: it answers "what would it do now", not
// "where would it be by now", which package sim answers.
type Shadow struct {
	Policy, Other Policy
}

// Decide implements Policy.
func (w Shadow) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := w.Policy.Decide(s)
	s.Memory = m.inner(1)
	other := Plan(w.Other, s)
	d.Beside = &other
	d.Next = sooner(d.Next, other.Next)
	d.Memory = m.wrap(d.Memory, other.Memory)
	return d
}

// Differs reports whether the policy of a Shadow would have done something else.
func (d Decision) Differs() bool {
	if d.Beside == nil {
		return false
	}
	return added(d.Actions) != added(d.Beside.Actions) || released(d.Actions) != released(d.Beside.Actions)
}
