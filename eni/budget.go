// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Priority is the order in which calls get their share of the budget.
type Priority uint8

// The priorities, lowest first. PriorityRefill is the default.
const (
	PriorityAudit   Priority = iota + 1 // background checks
	PriorityRelease                     // unassigning addresses
	PriorityRefill                      // filling the warm pool
	PriorityPod                         // a pod waits for the call
)

// budget limits the rate of calls of one class. It serves waiting calls by
// priority, then in order of arrival. When EC2 throttles, the rate halves. Each
// answer raises it a little again, so that nodes that share an account's quota
// reach fair shares of it.
type budget struct {
	base rate.Limit

	mu      sync.Mutex
	limiter *rate.Limiter
	queue   []*waiter
}

// waiter is one call in the queue. wake has room for one signal.
type waiter struct {
	priority Priority
	wake     chan struct{}
}

// minRateShare is the smallest share of its base rate that throttling leaves.
const minRateShare = 1.0 / 16

func newBudget(perSecond float64, burst int) *budget {
	return &budget{base: rate.Limit(perSecond), limiter: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// wait blocks until a call may be made, or until ctx ends.
func (b *budget) wait(ctx context.Context, p Priority) error {
	w := b.enter(p)
	defer b.leave(w)
	for {
		first, delay := b.poll(w, time.Now())
		if first && delay == 0 {
			return nil
		}
		var due <-chan time.Time
		if first {
			t := time.NewTimer(delay)
			defer t.Stop()
			due = t.C
		}
		select {
		case <-due:
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter queues a call behind those of the same or a higher priority.
func (b *budget) enter(p Priority) *waiter {
	w := &waiter{priority: p, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.queue, func(o *waiter) bool { return o.priority < p })
	if i < 0 {
		i = len(b.queue)
	}
	b.queue = slices.Insert(b.queue, i, w)
	return w
}

// leave removes a call from the queue and wakes the next one.
func (b *budget) leave(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = slices.DeleteFunc(b.queue, func(o *waiter) bool { return o == w })
	if len(b.queue) == 0 {
		return
	}
	select {
	case b.queue[0].wake <- struct{}{}:
	default:
	}
}

// poll takes a token for a call if the call is first in the queue and a token is
// free. It reports whether the call is first, and how long it must wait for a
// token.
func (b *budget) poll(w *waiter, now time.Time) (first bool, delay time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queue[0] != w {
		return false, 0
	}
	r := b.limiter.ReserveN(now, 1)
	if delay = r.DelayFrom(now); delay > 0 {
		r.CancelAt(now)
	}
	return true, delay
}

// throttled halves the rate.
func (b *budget) throttled() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.limiter.SetLimitAt(now, max(b.limiter.Limit()/2, b.base*minRateShare))
}

// slowed reports whether EC2 has throttled lately, so that the rate is below its base.
func (b *budget) slowed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limiter.Limit() < b.base
}

// answered raises the rate again by a tenth of its base.
func (b *budget) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.limiter.Limit(); l < b.base {
		b.limiter.SetLimitAt(time.Now(), min(l+b.base/10, b.base))
	}
}
