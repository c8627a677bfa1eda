// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// worker is one thread of a container runtime. Its pods can outlive a batch.
type worker struct {
	w     *world
	id    int
	rng   *rand.Rand // for this batch
	pods  []*pod
	added int            // number of pods so far
	late  sync.WaitGroup // for the ADDs of stopped plugins
}

const podsPerWorker = 3

// work adds, checks and deletes pods until ctx ends, and finishes commands that have
// begun. It rarely deletes the last pod, because the invariants are about running
// pods.
func (k *worker) work(ctx context.Context, enabled func(kind) bool) {
	for ctx.Err() == nil {
		switch n := k.rng.IntN(10); {
		case len(k.pods) < podsPerWorker && n < 6:
			k.add(enabled)
		case len(k.pods) > 1 && n < 9, len(k.pods) == 1 && n == 6 && k.rng.IntN(4) == 0:
			k.end(k.rng.IntN(len(k.pods)), enabled)
		case len(k.pods) > 0:
			k.check()
		}
		pause(ctx, time.Duration(k.rng.IntN(200))*time.Millisecond)
	}
	k.late.Wait()
}

// fill adds pods without faults until the worker has some.
func (k *worker) fill(ctx context.Context) {
	for tries := 0; len(k.pods) < podsPerWorker-1 && tries < 10 && ctx.Err() == nil; tries++ {
		k.add(func(kind) bool { return false })
	}
}

// watch does not change the pods, and checks one from time to time.
func (k *worker) watch(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(500+k.rng.IntN(2000))*time.Millisecond)
		if len(k.pods) > 0 {
			k.check()
		}
	}
}

func (k *worker) check() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k.w.tally.verb("CHECK", k.pods[k.rng.IntN(len(k.pods))].check(ctx))
}

// patience bounds one command of the runtime, as containerd does.
const patience = 60 * time.Second

// randomDelay returns a random time after the start of a plugin process. Most plugin
// processes take some milliseconds.
func (k *worker) randomDelay() time.Duration {
	return time.Duration(k.rng.ExpFloat64() * float64(12*time.Millisecond))
}

// add adds a pod, in one of three cases with a fault.
func (k *worker) add(enabled func(kind) bool) {
	k.added++
	p, err := k.w.newPod(fmt.Sprintf("pod-%d-%d", k.id, k.added), k.rng)
	if err != nil {
		k.w.events.add("sandbox: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch n := k.rng.IntN(9); {
	case n < 2 && enabled(pluginKill):
		err = p.add(ctx, &hazard{after: k.randomDelay(), signal: syscall.SIGKILL})
	case n == 2 && enabled(pluginStop):
		k.addStopped(p)
		return
	default:
		err = p.add(ctx, nil)
	}
	k.w.tally.verb("ADD", err)
	if err == nil {
		k.w.events.add("ADD %s: %v %s", p.name, p.addr, p.link)
		k.pods = append(k.pods, p)
		return
	}
	k.w.events.add("ADD %s: %v", p.name, err)
	k.w.checkRefusal(ctx, err)
	k.discard(p, enabled)
	time.Sleep(time.Duration(k.rng.IntN(1000)) * time.Millisecond) // the back-off of a runtime
}

// discard deletes a pod after an ADD that failed. It runs DEL or, like a runtime that
// fails itself, only deletes the sandbox.
func (k *worker) discard(p *pod, enabled func(kind) bool) {
	if enabled(noDel) && k.rng.IntN(4) == 0 {
		k.w.events.add("sandbox %s ends without DEL", p.name)
		k.w.tally.count(noDel)
	} else {
		k.del(p)
	}
	k.removeSandbox(p)
}

func (k *worker) removeSandbox(p *pod) {
	if err := p.remove(); err != nil {
		k.w.events.add("remove %s: %v", p.name, err)
	}
}

// end deletes a running pod. In some cases it does not run DEL, or kills the plugin
// during the DEL, which it may or may not repeat.
func (k *worker) end(i int, enabled func(kind) bool) {
	p := k.pods[i]
	k.pods = slices.Delete(k.pods, i, i+1)
	p.markEnded()
	n := k.rng.IntN(10)
	switch {
	case n == 0 && enabled(noDel):
		k.w.events.add("sandbox %s (%v) ends without DEL", p.name, p.addr)
		k.w.tally.count(noDel)
	case n < 3 && enabled(pluginKill):
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := p.del(ctx, &hazard{after: k.randomDelay(), signal: syscall.SIGKILL})
		cancel()
		k.w.tally.verb("DEL", err)
		k.w.events.add("DEL %s (%v): %v", p.name, p.addr, err)
		if err != nil && (k.rng.IntN(3) > 0 || !enabled(noDel)) {
			k.del(p)
		}
	default:
		k.del(p)
	}
	k.removeSandbox(p)
}

// A DEL counts as refused after delTries attempts or delWithin.
const (
	delTries  = 10
	delWithin = 45 * time.Second
)

// del runs DEL until it succeeds or counts as refused.
func (k *worker) del(p *pod) {
	var err error
	begun, tries := time.Now(), 0
	for ; tries < delTries && time.Since(begun) < delWithin; tries++ {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = p.del(ctx, nil)
		cancel()
		k.w.tally.verb("DEL", err)
		k.w.events.add("DEL %s (%v): %v", p.name, p.addr, err)
		if err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	k.w.recordViolations(violation{delRefused, fmt.Sprintf("%s: %d attempts, last error: %v", p.name, tries, err)})
}

// addStopped stops the plugin during an ADD. The runtime either waits or gives up. If
// it gives up, it runs DEL while the plugin is stopped, and deletes the sandbox before
// or after the plugin is resumed.
func (k *worker) addStopped(p *pod) {
	h := &hazard{after: k.randomDelay(), signal: syscall.SIGSTOP, stopped: make(chan struct{}), resume: make(chan struct{})}
	pause := time.Duration(k.rng.IntN(5000)) * time.Millisecond // can be longer than the cooldown
	givesUp, removeFirst := k.rng.IntN(3) > 0, k.rng.IntN(2) == 0
	result := make(chan error, 1)
	k.w.tally.count(pluginStop)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if givesUp {
			result <- p.addAbandoned(ctx, h)
			return
		}
		result <- p.add(ctx, h)
	}()
	<-h.stopped
	if givesUp {
		k.w.events.add("ADD %s is stopped for %v, followed by DEL", p.name, pause)
		k.del(p)
		k.late.Go(func() {
			if removeFirst {
				k.removeSandbox(p)
			}
			time.Sleep(pause)
			close(h.resume)
			k.w.events.add("late ADD %s ended: %v", p.name, <-result)
			if !removeFirst {
				k.removeSandbox(p)
			}
		})
		return
	}
	time.Sleep(pause)
	close(h.resume)
	err := <-result
	k.w.tally.verb("ADD", err)
	k.w.events.add("ADD %s after a stop of %v: %v %s %v", p.name, pause, p.addr, p.link, err)
	if err == nil {
		k.pods = append(k.pods, p)
		return
	}
	k.del(p)
	k.removeSandbox(p)
}
