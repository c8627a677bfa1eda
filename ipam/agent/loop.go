// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// kind is a kind of work. Of each kind one is under way at a time on a card
// and for a family.
type kind string

const (
	kindObserve  kind = "observe"
	kindLink     kind = "link"
	kindAssign   kind = "assign"
	kindCreate   kind = "create"
	kindUnassign kind = "unassign"
	kindDelete   kind = "delete"
	kindAudit    kind = "audit"
)

type key struct {
	kind   kind
	card   int
	family ipam.Family
}

// task is work under way in a goroutine of its own.
type task struct {
	eni   string
	slots int
	since time.Time
}

func (k key) describe(t task) string {
	s := string(k.kind)
	if t.eni != "" {
		s += " " + t.eni
	}
	if t.slots > 0 {
		s += fmt.Sprintf(" %d slots", t.slots)
	}
	return s
}

// result ends a task: apply runs in the loop.
type result struct {
	key   key
	apply func()
}

// loop is the state of Run, touched by its goroutine alone. Tasks get copies
// of what they need and hand back what to do with their outcome.
type loop struct {
	*Agent
	ctx      context.Context
	wg       sync.WaitGroup
	results  chan result
	tasks    map[key]task
	backoffs map[key]*backoff
	links    map[string]*link
	foreign  []ENI
	// gone are ENIs that an observation no longer shows and whose links are
	// still to be cleaned up.
	gone    map[string]bool
	memory  map[int]warmpool.Memory
	decided map[int]warmpool.Decision
	// subnet is believed until subnetUntil.
	subnet      warmpool.Subnet
	subnetUntil time.Time
	// recalled says that links are kept up as a process before this one has left
	// them. observed says that there was an observation, asked when the last one
	// was made, and lag how far its source may be behind.
	recalled bool
	observed bool
	asked    time.Time
	lag      time.Duration
	// audited is when the kernel was last asked what is in use; auditDue says
	// that it is to be asked again at once, or at auditNotBefore.
	audited        time.Time
	auditDue       bool
	auditNotBefore time.Time
	// seen says that the kernel has been asked with success.
	seen bool
	// proved says that a pod could have had an address since Run began.
	proved bool
	// wanted is the time that the next observation has to speak about, zero if
	// none is wanted.
	wanted time.Time
}

// turn looks at everything once, starts what can be started, and says when to
// look again.
func (l *loop) turn() time.Time {
	v := l.cfg.Pool.View()
	var wake earliest
	l.observe(v, &wake)
	l.audit(v, &wake)
	for range allocatable(v) {
		l.proved = true
	}
	if l.observed {
		l.resume(v)
	}
	if (l.observed || l.recalled) && l.witnessed() {
		l.ensureLinks(v, &wake)
	}
	if l.observed {
		for card := range l.cfg.Limits {
			l.decide(card, v, &wake)
			l.supplyIPv6(card, v)
		}
	}
	worst := l.outlooks(v)
	for _, b := range l.backoffs {
		wake.add(b.until, v.At)
	}
	wake.add(v.NextFree, v.At)
	wake.add(l.subnetUntil, v.At)
	l.publish(worst)
	return wake.at
}

// earliest collects the first of several future times.
type earliest struct{ at time.Time }

func (e *earliest) add(t, now time.Time) {
	if t.After(now) && (e.at.IsZero() || t.Before(e.at)) {
		e.at = t
	}
}

// start runs work in a goroutine, and what it returns in the loop afterwards.
func (l *loop) start(k key, t task, work func(ctx context.Context) (apply func())) {
	t.since = time.Now()
	l.tasks[k] = t
	l.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.callTimeout)
		defer cancel()
		l.results <- result{k, work(ctx)}
	})
}

// ready says whether work of this kind may start now.
func (l *loop) ready(k key, now time.Time) bool {
	_, running := l.tasks[k]
	b := l.backoffs[k]
	return !running && (b == nil || !b.active(now))
}

// busy says whether EC2 is asked to change an ENI.
func (l *loop) busy(eni string) bool {
	for k, t := range l.tasks {
		if t.eni == eni && k.kind != kindLink {
			return true
		}
	}
	return false
}

// outcome notes success or failure of work of one kind. A failure that may
// have had an effect makes the loop look again.
func (l *loop) outcome(k key, eni string, err error) {
	if err == nil {
		delete(l.backoffs, k)
		return
	}
	if l.ctx.Err() != nil {
		return
	}
	b := l.backoffs[k]
	if b == nil {
		b = &backoff{}
		l.backoffs[k] = b
	}
	now := time.Now()
	b.fail(err, now, l.rand())
	if k.kind != kindObserve && !certain(b.reason) {
		l.want(now)
	}
	l.log.Warn("action failed", "op", k.kind, "card", k.card, "eni", eni, "reason", b.reason,
		"retryIn", b.until.Sub(now), "err", err)
}

// want asks for an observation that speaks about t.
func (l *loop) want(t time.Time) {
	if t.After(l.wanted) {
		l.wanted = t
	}
}
