// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestBudgetOrder queues calls of all priorities for an exhausted budget and checks
// the order in which they are served.
func TestBudgetOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1, 1)
		if err := b.wait(t.Context(), PriorityAudit); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var mu sync.Mutex
		var served []Priority
		var all sync.WaitGroup
		for _, p := range []Priority{PriorityAudit, PriorityRefill, PriorityRelease, PriorityPod, PriorityAudit, PriorityPod} {
			all.Go(func() {
				if err := b.wait(t.Context(), p); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				served = append(served, p)
			})
			synctest.Wait()
		}
		expired, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if err := b.wait(expired, PriorityPod); err == nil {
			t.Error("a call was served after the end of its context")
		}
		all.Wait()
		want := []Priority{PriorityPod, PriorityPod, PriorityRefill, PriorityRelease, PriorityAudit, PriorityAudit}
		if !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if took := time.Since(begin); took != 6*time.Second {
			t.Errorf("6 calls at 1 a second took %v, want 6s", took)
		}
	})
}

// TestBudgetAdapts checks that throttling halves the rate and that answers raise it
// again.
func TestBudgetAdapts(t *testing.T) {
	b := newBudget(8, 1)
	rate := func(want float64) {
		t.Helper()
		if got := float64(b.limiter.Limit()); got < want-0.01 || got > want+0.01 {
			t.Errorf("rate %v, want %v", got, want)
		}
	}
	b.throttled()
	rate(4)
	b.throttled()
	rate(2)
	for range 10 {
		b.throttled()
	}
	rate(0.5)
	b.answered()
	rate(1.3)
	for range 10 {
		b.answered()
	}
	rate(8)
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		try    int
		random float64
		want   time.Duration
	}{
		{1, 0, 100 * time.Millisecond},
		{1, 1, time.Second},
		{2, 1, 2 * time.Second},
		{4, 1, 8 * time.Second},
		{6, 1, backoffMax},
		{60, 1, backoffMax},
		{60, 0, backoffMax / 10},
	} {
		if got := backoff(time.Second, c.try, c.random); got != c.want {
			t.Errorf("try %d, random %v: %v, want %v", c.try, c.random, got, c.want)
		}
	}
}
