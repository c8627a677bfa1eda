// SPDX-License-Identifier: Apache-2.0

package eni

import "time"

// Time. While the process lives, all its ages and waits are taken from the
// monotonic clock: a time that it notes itself comes from time.Now and is neither
// rounded nor moved to another zone, either of which would drop the monotonic
// reading. The wall clock counts only for what was noted elsewhere: in the
// journal by an earlier process, and in creation tags by any node. Both may be
// wrong by any amount, in either direction.
//
// What the journal says of the time before this process is therefore bounded:
//
//   - a time in the future counts as the time of reading, see rebase;
//   - a cooldown ends after at most its full length, see rebaseEnd;
//   - that EC2 denies something counts only when this process has run for
//     Config.Lag, see Manager.settled;
//   - a change whose age is not certain neither hides a slot nor vouches for one
//     in the first Config.Lag of the process: the slot is in doubt, see
//     merger.unsure.

// rebase moves a time that was read from disk to the clock of this process. now
// is the time of reading. A time after it becomes now.
func rebase(t, now time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	age := now.Round(0).Sub(t.Round(0))
	return now.Add(-max(age, 0))
}

// rebaseEnd moves the end of a rest that was read from disk to the clock of this
// process. No rest lasts longer than most.
func rebaseEnd(t, now time.Time, most time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	left := t.Round(0).Sub(now.Round(0))
	return now.Add(min(left, most))
}

// rebase moves the times of an intent that was read from the journal to the clock
// of this process. Created stays as it is, since it is part of the create call.
func (in Intent) rebase(now time.Time, cooldown time.Duration) Intent {
	in.Start, in.Changed = rebase(in.Start, now), rebase(in.Changed, now)
	in.NotBefore = rebaseEnd(in.NotBefore, now, cooldown)
	return in
}

// settled says whether EC2 has had the time to show what an intent did last. An
// intent of an earlier process may be younger than it looks, so that the time
// counts from when the journal was read.
func (m *Manager) settled(it Intent) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.settlesLocked(it))
}

// settlesLocked is when EC2 has had the time to show what an intent did last.
func (m *Manager) settlesLocked(it Intent) time.Time {
	return later(it.Changed, m.read).Add(m.cfg.Lag)
}
