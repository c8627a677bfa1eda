// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// kind is a kind of task. At most one task of each kind is under way for a card
// and a family, except that waiting pods justify several tasks that grow the pool, and that
// each ENI has a task for its link.
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

// key identifies the tasks that share a back-off.
type key struct {
	kind   kind
	card   int
	family ipam.Family
}

// task is work that is under way in its own goroutine.
type task struct {
	key
	eni   string
	slots int
	since time.Time
}

func (t *task) String() string {
	s := string(t.kind)
	if t.eni != "" {
		s += " " + t.eni
	}
	if t.slots > 0 {
		s += fmt.Sprintf(" %d slots", t.slots)
	}
	return s
}

// work is the part of a task that may block. It returns a function that applies
// the outcome in the loop.
type work func(ctx context.Context) (apply func())

// launchable is a task that is to be launched when the turn ends.
type launchable struct {
	task *task
	work work
}

// result is the outcome of a task.
type result struct {
	task  *task
	apply func()
}

// loop is the state of Run. Only the goroutine of Run uses it. Tasks get copies
// of the values that they need, and return a function that applies their outcome.
type loop struct {
	*Agent
	policy warmpool.Policy // as warmpool.AgentPolicy composes it
	limits []warmpool.Limits
	// bound is the number of pods that are bound to the node and hold no address.
	bound   int
	wg      sync.WaitGroup
	results chan result
	// stopping is set when the context of Run has ended. Tasks then fail because
	// they are cancelled.
	stopping bool
	// began is when the task with the outcome that is being applied started.
	began time.Time
	// tasks are under way, or in launches until the turn ends, oldest first.
	tasks    []*task
	launches []launchable
	backoffs map[key]*backoff
	links    map[string]*link
	foreign  []ENI
	// gone are ENIs that the latest observation lacks and that still have a link to
	// remove.
	gone    map[string]bool
	memory  map[int]warmpool.Memory
	decided map[int]warmpool.Decision
	// subnet is valid until subnetUntil.
	subnet      warmpool.Subnet
	subnetUntil time.Time
	// restored is set when restoreKnown has added ENIs. observed is set after the
	// first observation; observedAt is the time of the latest one, and lag its Lag.
	restored bool
	// observeBy is until when the first observation waits for the links of restored ENIs:
	// their pods need it less than the time of the processors that it takes. Zero means
	// that it does not wait.
	observeBy  time.Time
	observed   bool
	observedAt time.Time
	lag        time.Duration
	// auditedAt is when the latest audit began. auditDue requests another one as
	// soon as auditNotBefore has passed.
	auditedAt      time.Time
	auditDue       bool
	auditNotBefore time.Time
	// deadCollected is set when the attachments of ended sandboxes were released at the
	// start of Run.
	deadCollected bool
	// usesKnown is set when an audit has succeeded.
	usesKnown bool
	burst     burst
	// servable is set when an address was allocatable since Run began.
	servable bool
	// uncertainAt is the time up to which the next observation must be complete.
	// Zero means that no observation is needed.
	uncertainAt time.Time
}

// turn checks everything once, starts what can be started, and returns when to
// check again. Zero means that no time is known.
func (l *loop) turn() time.Time {
	l.reconfigure()
	l.bound = l.Agent.bound()
	v := l.cfg.Pool.View()
	var wake earliest
	l.observe(v, &wake)
	l.audit(v, &wake)
	l.burst.update(l.demand(v), v.At)
	l.servable = l.servable || l.serves(v)
	if l.observed {
		l.resume(v)
	}
	if (l.observed || l.restored) && l.knowsUses() {
		l.ensureLinks(v, &wake)
	}
	if l.observed {
		for card := range l.limits {
			l.decide(card, v, &wake)
			l.supplyIPv6(card, v)
		}
	}
	outlook := l.outlooks(v)
	for _, b := range l.backoffs {
		wake.add(b.until, v.At)
	}
	wake.add(v.NextFree, v.At)
	wake.add(l.subnetUntil, v.At)
	l.publish(outlook)
	return wake.at
}

// earliest is the first of several future times.
type earliest struct{ at time.Time }

func (e *earliest) add(t, now time.Time) {
	if t.After(now) && (e.at.IsZero() || t.Before(e.at)) {
		e.at = t
	}
}

// start starts a task. Its work is launched when the turn ends, and its outcome
// is applied after a later one. Only a turn may call start.
func (l *loop) start(k key, t task, w work) {
	t.key, t.since = k, time.Now()
	l.tasks = append(l.tasks, &t)
	l.launches = append(l.launches, launchable{&t, w})
}

// launch runs the work of the tasks that the turn has started, each in its own
// goroutine.
func (l *loop) launch(ctx context.Context) {
	for _, s := range l.launches {
		l.wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			l.results <- result{s.task, s.work(ctx)}
		})
	}
	l.launches = nil
}

// finish applies the outcome of a task. ctx is the context of Run.
func (l *loop) finish(ctx context.Context, r result) {
	l.stopping = ctx.Err() != nil
	l.tasks = slices.DeleteFunc(l.tasks, func(t *task) bool { return t == r.task })
	l.began = r.task.since
	r.apply()
}

// running returns the oldest task with a key, nil if none is under way.
func (l *loop) running(k key) *task {
	for _, t := range l.tasks {
		if t.key == k {
			return t
		}
	}
	return nil
}

// ready reports whether a task of this kind may start now.
func (l *loop) ready(k key, now time.Time) bool { return l.running(k) == nil && !l.backsOff(k, now) }

// backsOff reports whether tasks of this kind wait after a failure.
func (l *loop) backsOff(k key, now time.Time) bool {
	b := l.backoffs[k]
	return b != nil && b.active(now)
}

// busy reports whether a task changes an ENI in EC2.
func (l *loop) busy(eni string) bool {
	return slices.ContainsFunc(l.tasks, func(t *task) bool { return t.eni == eni && t.kind != kindLink })
}

// noteOutcome records the success or failure of a task. A failure that may have
// had an effect makes the loop observe again. The success of a task that began
// before another one of its kind failed does not end the back-off.
func (l *loop) noteOutcome(k key, eni string, err error) {
	b := l.backoffs[k]
	if err == nil {
		if b != nil && !l.began.Before(b.failedAt) {
			delete(l.backoffs, k)
		}
		return
	}
	if l.stopping {
		return
	}
	if b == nil {
		b = &backoff{}
		l.backoffs[k] = b
	}
	now := time.Now()
	b.fail(err, l.began, now, l.rand())
	if k.kind != kindObserve && !hadNoEffect(b.reason) {
		l.needObservation(now)
	}
	l.log.Warn("action failed", "op", k.kind, "card", k.card, "eni", eni, "reason", b.reason,
		"retryIn", b.until.Sub(now), "err", err)
}

// needObservation requests an observation that is complete up to t.
func (l *loop) needObservation(t time.Time) {
	if t.After(l.uncertainAt) {
		l.uncertainAt = t
	}
}
