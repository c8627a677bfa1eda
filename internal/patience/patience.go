// SPDX-License-Identifier: Apache-2.0

// Package patience limits how often the same repair is repeated. Without a limit,
// two programs that set the same thing in the kernel to different values would each
// keep a processor busy. Packages datapath and snat use it.
package patience

import "time"

// If another program keeps changing one thing, the first Burst repairs of it are
// granted at once, and the next after First. The wait doubles with each further
// repair, up to Last.
const (
	Burst = 20
	First = 100 * time.Millisecond
	Last  = 30 * time.Second
)

// Patience counts repairs by the name of the repaired thing. The zero value is ready
// to use. It is not safe for concurrent use.
type Patience struct {
	budgets map[string]*budget
}

// budget counts the repairs of one thing.
type budget struct {
	left  int           // repairs that are granted at once
	wait  time.Duration // time until another repair is added to left
	since time.Time     // begin of that time
}

// Grant reports for each of the things whether to repair it now, and the time until
// the next repair of the others. fighting is true if one of the granted repairs is
// the last one before a wait.
func (p *Patience) Grant(things []string, now time.Time) (due []bool, next time.Duration, fighting bool) {
	p.prune(now)
	due = make([]bool, len(things))
	for i, thing := range things {
		b := p.budget(thing, now)
		if b.left == 0 {
			if d := b.wait - now.Sub(b.since); next == 0 || d < next {
				next = d
			}
			continue
		}
		if b.left == Burst {
			b.since = now
		}
		b.left--
		if b.left == 0 {
			b.wait = min(2*b.wait, Last)
			fighting = true
		}
		due[i] = true
	}
	return due, next, fighting
}

// budget returns the budget of a thing, after adding the repairs that the time since
// the last call permits.
func (p *Patience) budget(thing string, now time.Time) *budget {
	if p.budgets == nil {
		p.budgets = map[string]*budget{}
	}
	b := p.budgets[thing]
	if b == nil {
		b = &budget{left: Burst, wait: First}
		p.budgets[thing] = b
	}
	for b.left < Burst && now.Sub(b.since) >= b.wait {
		b.left++
		b.since = b.since.Add(b.wait)
	}
	return b
}

// prune removes the budgets that have not been used for long enough to be full.
func (p *Patience) prune(now time.Time) {
	for thing, b := range p.budgets {
		if now.Sub(b.since) > Burst*b.wait {
			delete(p.budgets, thing)
		}
	}
}
