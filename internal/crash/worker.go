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

// worker is one thread of a container runtime. Its pods outlive the batches.
type worker struct {
	w    *world
	id   int
	rng  *rand.Rand // of the batch
	pods []*pod
	made int
	late sync.WaitGroup // ADDs of stopped plugins
}

const podsPerWorker = 3

// work adds, checks and deletes pods until ctx ends. What has begun is ended. The
// last pod mostly stays: without running pods nothing can be harmed.
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

// fill adds pods without any hazard until the worker has some.
func (k *worker) fill(ctx context.Context) {
	for tries := 0; len(k.pods) < podsPerWorker-1 && tries < 10 && ctx.Err() == nil; tries++ {
		k.add(func(kind) bool { return false })
	}
}

// watch leaves the pods as they are and checks one now and then.
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

// patience bounds one command of the runtime, as containerd's own bound does.
const patience = 60 * time.Second

// soon is a moment in the life of a plugin process, most of which take some
// milliseconds.
func (k *worker) soon() time.Duration {
	return time.Duration(k.rng.ExpFloat64() * float64(12*time.Millisecond))
}

// add starts a pod, with a hazard one time in three.
func (k *worker) add(enabled func(kind) bool) {
	k.made++
	p, err := k.w.newPod(fmt.Sprintf("pod-%d-%d", k.id, k.made), k.rng)
	if err != nil {
		k.w.events.add("sandbox: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch n := k.rng.IntN(9); {
	case n < 2 && enabled(pluginKill):
		err = p.add(ctx, &hazard{after: k.soon(), signal: syscall.SIGKILL})
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
	k.w.refused(ctx, err)
	k.discard(p, enabled)
	time.Sleep(time.Duration(k.rng.IntN(1000)) * time.Millisecond) // as a runtime backs off
}

// discard does what a runtime does after an ADD without success: DEL, or, when it
// was itself disturbed, nothing but delete the sandbox.
func (k *worker) discard(p *pod, enabled func(kind) bool) {
	if enabled(noDel) && k.rng.IntN(4) == 0 {
		k.w.events.add("sandbox %s goes without DEL", p.name)
		k.w.tally.count(noDel)
	} else {
		k.del(p)
	}
	k.gone(p)
}

func (k *worker) gone(p *pod) {
	if err := p.remove(); err != nil {
		k.w.events.add("remove %s: %v", p.name, err)
	}
}

// end ends a running pod, now and then without DEL, or with a DEL that is killed
// and repeated, or not.
func (k *worker) end(i int, enabled func(kind) bool) {
	p := k.pods[i]
	k.pods = slices.Delete(k.pods, i, i+1)
	p.end()
	n := k.rng.IntN(10)
	switch {
	case n == 0 && enabled(noDel):
		k.w.events.add("sandbox %s (%v) goes without DEL", p.name, p.addr)
		k.w.tally.count(noDel)
	case n < 3 && enabled(pluginKill):
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := p.del(ctx, &hazard{after: k.soon(), signal: syscall.SIGKILL})
		cancel()
		k.w.tally.verb("DEL", err)
		k.w.events.add("DEL %s (%v): %v", p.name, p.addr, err)
		if err != nil && (k.rng.IntN(3) > 0 || !enabled(noDel)) {
			k.del(p)
		}
	default:
		k.del(p)
	}
	k.gone(p)
}

// A runtime repeats a DEL so often, for so long, before the loop calls it refused.
const (
	delTries  = 10
	delWithin = 45 * time.Second
)

// del runs DEL until it succeeds.
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
	k.w.breach(violation{delRefused, fmt.Sprintf("%s: %d times, at last: %v", p.name, tries, err)})
}

// addStopped stops the plugin in the middle of ADD. The runtime either waits, or
// gives up: then DEL comes while the plugin is stopped, and the sandbox goes before
// or after the plugin goes on.
func (k *worker) addStopped(p *pod) {
	h := &hazard{after: k.soon(), signal: syscall.SIGSTOP, stopped: make(chan struct{}), resume: make(chan struct{})}
	pause := time.Duration(k.rng.IntN(5000)) * time.Millisecond // the cooldown is shorter
	givesUp, goneFirst := k.rng.IntN(3) > 0, k.rng.IntN(2) == 0
	result := make(chan error, 1)
	k.w.tally.count(pluginStop)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if givesUp {
			result <- p.abandoned(ctx, h)
			return
		}
		result <- p.add(ctx, h)
	}()
	<-h.stopped
	if givesUp {
		k.w.events.add("ADD %s is stopped for %v, DEL follows", p.name, pause)
		k.del(p)
		k.late.Go(func() {
			if goneFirst {
				k.gone(p)
			}
			time.Sleep(pause)
			close(h.resume)
			k.w.events.add("late ADD %s ended: %v", p.name, <-result)
			if !goneFirst {
				k.gone(p)
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
	k.gone(p)
}
