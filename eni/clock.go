// SPDX-License-Identifier: Apache-2.0

package eni

import "time"

// A process measures all ages and waits with the monotonic clock. The times that
// it takes itself come from time.Now, and it neither rounds them nor moves them to
// another zone, because either would drop the monotonic reading. It uses the wall
// clock only for times written by another process: in the journal by an earlier
// process, and in creation tags by any node. Both may be wrong by any amount, in
// either direction.
//
// The effect of times in the journal from before this process is therefore
// limited:
//
//   - a time in the future counts as the time of reading, see rebase;
//   - a cooldown ends after at most its full length, see rebaseEnd;
//   - an absence at EC2 counts only after this process has run for Config.Lag,
//     see Manager.lagPassed;
//   - a change of uncertain age neither hides nor confirms a slot in the first
//     Config.Lag of the process: the slot is in doubt, see merger.uncertainTime.

// rebase converts a time that was read from disk to the clock of this process. now
// is the time of reading. A later time becomes now.
func rebase(t, now time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	age := now.Round(0).Sub(t.Round(0))
	return now.Add(-max(age, 0))
}

// rebaseEnd converts the end of a cooldown that was read from disk to the clock of
// this process. The result is at most longest after now.
func rebaseEnd(t, now time.Time, longest time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	left := t.Round(0).Sub(now.Round(0))
	return now.Add(min(left, longest))
}

// rebase converts the times of an intent that was read from the journal to the
// clock of this process. It leaves Created unchanged, because that is part of the
// create call.
func (in Intent) rebase(now time.Time, cooldown time.Duration) Intent {
	in.Start, in.Changed = rebase(in.Start, now), rebase(in.Changed, now)
	in.NotBefore = rebaseEnd(in.NotBefore, now, cooldown)
	return in
}

// lagPassed reports whether EC2 has had time to show the last change of an intent.
// An intent of an earlier process may be younger than it looks, so its time counts
// from when the journal was read.
func (m *Manager) lagPassed(it Intent) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.lagEndsLocked(it))
}

// lagEndsLocked returns when EC2 has had time to show the last change of an intent.
func (m *Manager) lagEndsLocked(it Intent) time.Time {
	return later(it.Changed, m.journalRead).Add(m.cfg.Lag)
}
