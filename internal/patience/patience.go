// SPDX-License-Identifier: Apache-2.0

// Package patience decides how soon the same repair is made again. Without it two
// programs that want different things of one kernel would keep a processor busy
// each. Packages datapath and snat repair by it.
package patience

import "time"

// A program that keeps changing one thing has it repaired Burst times at once, then
// each First; the wait doubles with each repair that is used up, to Last.
const (
	Burst = 20
	First = 100 * time.Millisecond
	Last  = 30 * time.Second
)

// Patience counts the repairs of things, each of which has a name. The zero value is
// ready to use. It is not safe for concurrent use.
type Patience struct {
	seen map[string]*tally
}

// tally counts the repairs of one thing.
type tally struct {
	left  int           // repairs that need not wait
	wait  time.Duration // until another is granted
	since time.Time     // when the last was granted or used
}

// Grant reports which of the things to repair now, in their order, and the time until
// the next of the others. fighting means that the repair of one of them is its last
// before a wait.
func (p *Patience) Grant(things []string, now time.Time) (due []bool, next time.Duration, fighting bool) {
	p.forget(now)
	due = make([]bool, len(things))
	for i, thing := range things {
		t := p.tally(thing, now)
		if t.left == 0 {
			if d := t.wait - now.Sub(t.since); next == 0 || d < next {
				next = d
			}
			continue
		}
		if t.left == Burst {
			t.since = now
		}
		if t.left--; t.left == 0 {
			t.wait = min(2*t.wait, Last)
			fighting = true
		}
		due[i] = true
	}
	return due, next, fighting
}

// tally returns that of a thing, with the repairs that it has regained since.
func (p *Patience) tally(thing string, now time.Time) *tally {
	if p.seen == nil {
		p.seen = map[string]*tally{}
	}
	t := p.seen[thing]
	if t == nil {
		t = &tally{left: Burst, wait: First}
		p.seen[thing] = t
	}
	for t.left < Burst && now.Sub(t.since) >= t.wait {
		t.left++
		t.since = t.since.Add(t.wait)
	}
	return t
}

// forget drops what has been quiet for long enough to have its whole burst again.
func (p *Patience) forget(now time.Time) {
	for thing, t := range p.seen {
		if now.Sub(t.since) > Burst*t.wait {
			delete(p.seen, thing)
		}
	}
}
