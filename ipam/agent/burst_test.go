// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// watched is a policy with a number of spare addresses. It records the demand that it
// was shown.
type watched struct {
	spare int
	mu    *sync.Mutex
	shown *[]warmpool.Demand
}

func (p watched) Decide(s warmpool.Snapshot) warmpool.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.shown = append(*p.shown, s.Demand)
	return warmpool.AWS{WarmIPTarget: p.spare, MinimumIPTarget: 1}.Decide(s)
}

// TestStartShowsPolicyTheRealDemand: an agent that starts with an empty pool asks the
// policy for what it wants without a pod, and gives nothing back afterwards.
func TestStartShowsPolicyTheRealDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		var shown []warmpool.Demand
		w.config = func(c *agent.Config) { c.Policy = watched{2, &mu, &shown} }
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		for _, d := range shown {
			if d != (warmpool.Demand{}) {
				t.Errorf("the policy was shown the demand %+v, want none", d)
			}
		}
		if w.cloud.count("assign") != 1 || w.cloud.count("unassign") != 0 || p.Status().Free != 2 {
			t.Errorf("calls %v and %d free addresses, want one assign of 2", w.cloud.calls, p.Status().Free)
		}
	})
}

// never is a policy that never acts.
type never struct{}

func (never) Decide(s warmpool.Snapshot) warmpool.Decision {
	return warmpool.Decision{Explanation: warmpool.Because("never")}
}

// TestFirstSlotWithoutPolicy: a policy that wants no address gets one, so that the
// node becomes ready.
func TestFirstSlotWithoutPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config = func(c *agent.Config) { c.Policy = never{} }
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		if s := p.Status(); !s.Ready || s.Free != 1 {
			t.Errorf("status %+v, want ready with one free address", s)
		}
	})
}

// addBurst adds pods at once and returns how many got an address, and after what time
// the last one did.
func addBurst(p *process, pods int) (served int, last time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range pods {
		wg.Go(func() {
			if err := p.add(fmt.Sprint("burst", i), time.Minute); err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			served++
			last = max(last, time.Since(begin))
		})
	}
	wg.Wait()
	return served, last
}

// TestCreatesSideBySide: ENIs are created side by side for as many pods as wait.
func TestCreatesSideBySide(t *testing.T) {
	for _, c := range []struct {
		policy   warmpool.Policy
		pods     int
		creating int // at most at one time
		within   time.Duration
	}{
		{warmpool.AWS{WarmIPTarget: 25}, 0, 1, 0}, // five ENIs, but nothing is urgent
		{warmpool.AWS{WarmIPTarget: 25}, 5, 1, 2 * time.Second},
		{warmpool.Band{}, 6, 1, 2 * time.Second},
		{warmpool.Band{}, 24, 4, 2 * time.Second},
		{warmpool.AWS{WarmENITarget: 1}, 24, 4, 2 * time.Second}, // grows by one action a decision
	} {
		t.Run(fmt.Sprintf("%T, %d pods", c.policy, c.pods), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.cloud.maxENIs, w.cloud.slots = 8, 5
				w.config = func(cfg *agent.Config) { cfg.Policy = c.policy }
				p := w.boot(0)
				defer p.stop()
				served, last := addBurst(p, c.pods)
				waitUntilIdle()
				w.cloud.mu.Lock()
				most := w.cloud.mostCreating
				w.cloud.mu.Unlock()
				if served != c.pods || last > c.within || most != c.creating {
					t.Errorf("%d pods served within %v, %d ENIs created at once; want %d, %v, %d", served, last, most, c.pods, c.within, c.creating)
				}
				w.check(p)
				w.converged(p)
			})
		})
	}
}

// TestAssignsSideBySide: ENIs that have room are filled side by side for waiting pods.
func TestAssignsSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.maxENIs = 4
		for i := 1; i < 4; i++ {
			w.cloud.edit(func() { w.cloud.enis = append(w.cloud.enis, agent.ENI{ID: fmt.Sprint("eni-", i), Device: i}) })
		}
		w.config = func(c *agent.Config) { c.Policy = warmpool.Band{Low: -1} }
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		served, last := addBurst(p, 18)
		if served != 18 || last > 1100*time.Millisecond {
			t.Errorf("%d pods served within %v, want 18 within 1.1 s: one call after the first pod, one for the others", served, last)
		}
	})
}

// TestFailuresSideBySide: several creates that fail together count as one failure, and
// a create that began earlier and succeeds does not end the back-off.
func TestFailuresSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.maxENIs, w.cloud.slots = 5, 2
		w.config = func(c *agent.Config) { c.Policy = warmpool.Band{Low: -1} }
		full := refusal{reason: string(ipam.ReasonSubnetFull)}
		w.cloud.faults["create"] = []error{full, full, full}
		p := w.boot(0)
		defer p.stop()
		served, last := addBurst(p, 10)
		// The first pause for a full subnet is 15 s; half of it is jitter, of which the
		// test takes half.
		if served != 10 || last < 11*time.Second || last > 13*time.Second || w.cloud.count("create") != 7 {
			t.Errorf("%d pods served within %v with %d creates, want 10 within 12 s with 3 that fail and 4", served, last, w.cloud.count("create"))
		}
	})
}

// latest is a policy that grows for waiting pods only, and records its latest snapshot.
type latest struct {
	mu        sync.Mutex
	s         warmpool.Snapshot
	decisions int
}

func (p *latest) Decide(s warmpool.Snapshot) warmpool.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s = s
	p.decisions++
	return warmpool.Band{Low: -1}.Decide(s)
}

func (p *latest) snapshot() warmpool.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.s
}

// TestObservationDuringCreate: an observation shows an ENI that is still being created
// as one that pods may not use. Pods use it as soon as the call has returned,
// whichever answer comes first.
func TestObservationDuringCreate(t *testing.T) {
	for _, observeAt := range []time.Duration{600, 1300} { // ms; the create call takes 1.5 s from 20 ms on
		t.Run(fmt.Sprint(int(observeAt), " ms"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.cloud.maxENIs, w.cloud.slots, w.cloud.visible = 2, 2, true
				var last latest
				w.config = func(c *agent.Config) { c.Policy = &last }
				p := w.boot(0)
				defer p.stop()
				waitUntilIdle()
				for i := range 2 {
					if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
						t.Fatal(err)
					}
				}
				served := make(chan error, 1)
				begin := time.Now()
				go func() { served <- p.add("late", time.Minute) }()
				time.Sleep(observeAt * time.Millisecond)
				p.Refresh()
				if err := <-served; err != nil || time.Since(begin) > 1600*time.Millisecond {
					t.Errorf("served after %v: %v, want within 1.6 s", time.Since(begin), err)
				}
				time.Sleep(10 * time.Second)
				for _, e := range last.snapshot().ENIs {
					if e.NoPods {
						t.Errorf("the policy sees %+v as not for pods", e)
					}
				}
				if v := p.pool.View(); len(v.ENIs) != 2 || !v.ENIs[1].Ready {
					t.Errorf("ENIs %+v, want the second one ready", v.ENIs)
				}
			})
		})
	}
}

// TestRest checks that an agent at rest makes no calls and wakes up at most once a
// second: it asks the policy each time it wakes up.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var p latest
		w.config = func(c *agent.Config) { c.Policy = &p }
		proc := w.boot(0)
		defer proc.stop()
		if served, _ := addBurst(proc, 12); served != 12 {
			t.Errorf("%d pods served, want 12", served)
		}
		time.Sleep(time.Hour)
		decisions := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.decisions
		}
		w.cloud.mu.Lock()
		calls := fmt.Sprint(w.cloud.calls)
		w.cloud.mu.Unlock()
		before := decisions()
		const hour = 3600
		time.Sleep(hour * time.Second)
		w.cloud.mu.Lock()
		defer w.cloud.mu.Unlock()
		n := decisions() - before
		t.Logf("%d decisions an hour", n)
		if n > hour || fmt.Sprint(w.cloud.calls) != calls {
			t.Errorf("%d decisions in an hour and the calls %v, want at most %d and %s", n, w.cloud.calls, hour, calls)
		}
	})
}
