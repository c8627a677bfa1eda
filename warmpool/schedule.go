// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Schedule chooses a policy by the time of day.
type Schedule struct {
	// Policy runs when no window is open.
	Policy Policy
	// Windows lists the windows; the first open one decides.
	Windows []Window
	// Location is the time zone of the windows. Nil means UTC.
	Location *time.Location
}

// Window is a part of the week with its own policy.
type Window struct {
	// From and To are times of day, as durations since midnight. If To is not
	// after From, the window ends on the next day.
	From, To time.Duration
	// Days lists the days on which the window begins. Empty means all days.
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
	d := decideInner(s, m, i, len(w.Windows)+1, policy)
	for _, x := range w.Windows {
		d.Next = sooner(d.Next, untilClock(now, x.From))
		d.Next = sooner(d.Next, untilClock(now, x.To))
	}
	return d
}

const day = 24 * time.Hour

// clock returns the time of day of t as the duration since midnight.
func clock(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}

// untilClock returns the time until the clock next shows t. It is never zero.
func untilClock(now time.Time, t time.Duration) time.Duration {
	d := (t - clock(now)) % day
	if d <= 0 {
		d += day
	}
	return d
}

// open reports whether the window is open.
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

// begins reports whether the window begins on the day.
func (w Window) begins(d time.Weekday) bool {
	for _, x := range w.Days {
		if x == d {
			return true
		}
	}
	return len(w.Days) == 0
}
