// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"log/slog"
	"time"
)

// WatchConfig says what [Handle.Watch] keeps up. Desired is needed.
type WatchConfig struct {
	// Desired returns the rules that are wanted, and false as long as none are:
	// Watch then leaves the table alone. It is called for each look, on Watch's
	// goroutine, and should be quick. A caller that applies other rules makes
	// Desired return them before it calls Apply.
	Desired func() (Ruleset, bool)
	// Repaired is called after each repair, for metrics. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Every is how often to look although the kernel reports nothing. One minute
	// if 0.
	Every time.Duration
	// Exclusive calls look, which reads the table and repairs it, while the caller
	// keeps it from work of its own, and returns its error or the reason why it
	// was not called. Optional: a look and an Apply of the same Handle take turns
	// anyway.
	Exclusive func(ctx context.Context, look func() error) error
}

// Repair is what Watch found and did.
type Repair struct {
	// Changes lists in words what others had changed.
	Changes []string
	// Took is the time from the kernel's report to the end of the repair; from the
	// beginning of the look if there was no report.
	Took time.Duration
	// By names the programs that changed the table, as "nft (pid 7)", as far as
	// the kernel tells: none if the change was found without a report.
	By []string
	// Fighting means that another program changed the same part so often that
	// Watch now waits before it repairs that part again.
	Fighting bool
	// Err is why the table could not be repaired; Watch tries again.
	Err error
}

// A program that keeps changing one part of the table has it repaired burst times
// at once, then each firstWait; the wait doubles with each repair, to lastWait.
// While a repair is held back, Watch looks no more often than each firstWait.
const (
	burst     = 20
	firstWait = 100 * time.Millisecond
	lastWait  = 30 * time.Second
)

// patience decides how soon the same part is repaired again. Without it two
// programs that want different things would keep a processor busy each.
type patience struct {
	parts map[string]*tally
}

// tally counts the repairs of one part.
type tally struct {
	left  int           // repairs that need not wait
	wait  time.Duration // until another is granted
	since time.Time     // when the last was granted or used
}

// grant reports whether to repair the table now, in which parts differ; if not, in
// what time. One part that may be repaired is enough, since all are repaired with it.
// fighting reports that a part has had its last repair before a wait.
func (p *patience) grant(parts []string, now time.Time) (ok bool, next time.Duration, fighting bool) {
	p.forget(now)
	var due []*tally
	for _, part := range parts {
		t := p.tally(part, now)
		if t.left > 0 {
			due = append(due, t)
			continue
		}
		if d := t.wait - now.Sub(t.since); next == 0 || d < next {
			next = d
		}
	}
	for _, t := range due {
		if t.left == burst {
			t.since = now
		}
		if t.left--; t.left == 0 {
			t.wait = min(2*t.wait, lastWait)
			fighting = true
		}
	}
	return len(due) > 0, next, fighting
}

// tally returns that of a part, with the repairs it has regained since.
func (p *patience) tally(part string, now time.Time) *tally {
	if p.parts == nil {
		p.parts = map[string]*tally{}
	}
	t := p.parts[part]
	if t == nil {
		t = &tally{left: burst, wait: firstWait}
		p.parts[part] = t
	}
	for t.left < burst && now.Sub(t.since) >= t.wait {
		t.left++
		t.since = t.since.Add(t.wait)
	}
	return t
}

// forget drops the parts that nothing has changed for long enough to have their
// whole burst again.
func (p *patience) forget(now time.Time) {
	for part, t := range p.parts {
		if now.Sub(t.since) > burst*t.wait {
			delete(p.parts, part)
		}
	}
}
