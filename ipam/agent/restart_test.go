// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// inventory has the blocks of each ENI, as EC2, the kernel or the pool has them.
type inventory map[string][]netip.Prefix

func sorted(p []netip.Prefix) []netip.Prefix {
	out := slices.Clone(p)
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// converged checks that EC2, the kernel and the pool agree, and that no operation
// is unfinished.
func (w *world) converged(p *process) {
	w.t.Helper()
	ec2, links, pool := inventory{}, inventory{}, inventory{}
	w.cloud.mu.Lock()
	for _, e := range w.cloud.enis {
		ec2[e.ID] = sorted(e.Blocks)
	}
	if n := len(w.cloud.enis); n > w.cloud.maxENIs {
		w.t.Errorf("%d ENIs, want at most %d", n, w.cloud.maxENIs)
	}
	w.cloud.mu.Unlock()
	w.kernel.mu.Lock()
	for id, blocks := range w.kernel.links {
		links[id] = sorted(blocks)
	}
	w.kernel.mu.Unlock()
	for _, n := range p.pool.View().ENIs {
		if n.Draining || !n.Ready {
			w.t.Errorf("%s: draining %v, ready %v", n.ID, n.Draining, n.Ready)
		}
		var blocks []netip.Prefix
		for _, b := range n.Blocks {
			blocks = append(blocks, b.Prefix)
			if b.Draining || b.Doubted {
				w.t.Errorf("%v: draining %v, doubted %v", b.Prefix, b.Draining, b.Doubted)
			}
		}
		pool[n.ID] = sorted(blocks)
	}
	opt := []cmp.Option{cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(ec2, pool, opt...); diff != "" {
		w.t.Errorf("EC2 and pool (-ec2 +pool):\n%s", diff)
	}
	if diff := cmp.Diff(ec2, links, opt...); diff != "" {
		w.t.Errorf("EC2 and kernel (-ec2 +kernel):\n%s", diff)
	}
}

// restartIfKilled returns p, or a new process if p was killed.
func (w *world) restartIfKilled(p *process) *process {
	select {
	case <-p.kill.died:
		p.stop()
		return w.boot(0)
	default:
		return p
	}
}

// retryUntilDone repeats op until it succeeds. If the process is killed, it goes on
// with a new one.
func (w *world) retryUntilDone(p *process, what string, op func(p *process) error) *process {
	w.t.Helper()
	for range 60 {
		err := op(p)
		if p = w.restartIfKilled(p); err == nil {
			return p
		}
		time.Sleep(time.Second)
	}
	w.t.Errorf("%s never succeeded", what)
	return p
}

// addAtOnce adds pods at once, until each has an address.
func (w *world) addAtOnce(p *process, pods int) *process {
	w.t.Helper()
	for range 60 {
		var failed atomic.Int32
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() {
				if p.add(fmt.Sprint("pod", i), 5*time.Second) != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if p = w.restartIfKilled(p); failed.Load() == 0 {
			return p
		}
		time.Sleep(time.Second)
	}
	w.t.Errorf("%d pods at once never succeeded", pods)
	return p
}

// day runs a short life of a node: it fills, grows to two ENIs, and empties.
func (w *world) day(killAt int) (steps int) {
	p := w.boot(killAt)
	first := p
	add := func(from, to int) {
		for i := from; i < to; i++ {
			pod := fmt.Sprint("pod", i)
			p = w.retryUntilDone(p, "add "+pod, func(p *process) error { return p.add(pod, 5*time.Second) })
		}
	}
	del := func(from, to int) {
		for i := from; i < to; i++ {
			pod := fmt.Sprint("pod", i)
			p = w.retryUntilDone(p, "del "+pod, func(p *process) error { return p.del(pod) })
		}
	}
	if w.burst > 0 {
		p = w.addAtOnce(p, w.burst)
		w.check(p)
	}
	add(0, 3)
	p = w.restartIfKilled(p)
	w.check(p)
	add(0, 8) // the first three again
	del(1, max(8, w.burst))
	w.check(p)
	waitUntilIdle() // blocks and ENIs are given back
	p = w.restartIfKilled(p)
	w.check(p)
	add(8, 10)
	waitUntilIdle()
	p = w.restartIfKilled(p)
	waitUntilIdle()
	w.check(p)
	w.converged(p)
	p.stop()
	first.kill.mu.Lock()
	defer first.kill.mu.Unlock()
	return first.kill.steps
}

// TestKillAtEveryStep kills the agent before and after each call to EC2, each
// change in the kernel and each write to the journal, and starts another one.
func TestKillAtEveryStep(t *testing.T) {
	worlds := map[string]func(*world){
		"addresses": func(*world) {},
		"prefixes": func(w *world) {
			w.cloud.prefixes = true
			w.cloud.slots = 1
			w.config = func(c *agent.Config) { c.Policy = warmpool.AWS{WarmIPTarget: 12} }
		},
		"late metadata": func(w *world) { w.cloud.lag = 2 * time.Minute },
		"bursts":        func(w *world) { w.cloud.maxENIs, w.cloud.slots, w.burst = 5, 2, 9 },
	}
	for name, prepare := range worlds {
		t.Run(name, func(t *testing.T) {
			steps := 1
			for killAt := 0; killAt <= steps; killAt++ {
				synctest.Test(t, func(t *testing.T) {
					defer func() {
						if t.Failed() {
							t.Logf("killed at step %d of %d", killAt, steps)
						}
					}()
					w := newWorld(t)
					prepare(w)
					if n := w.day(killAt); killAt == 0 {
						steps = n
						t.Logf("%d steps, %v", n, w.cloud.calls)
						if w.burst > 0 && w.cloud.mostCreating < 3 {
							t.Errorf("at most %d ENIs were created at once, want 3", w.cloud.mostCreating)
						}
					}
				})
			}
		})
	}
}
