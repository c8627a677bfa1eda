// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// loop runs batches for o.duration and returns a report. An error means that the
// loop itself failed.
func loop(ctx context.Context, o options, progress io.Writer) (report, error) {
	l := &batches{o: o, tally: newTally(o), progress: progress}
	start := time.Now()
	err := l.run(ctx, start.Add(o.duration))
	if l.w != nil {
		err = errors.Join(err, l.w.close())
	}
	r := l.tally.report()
	r.Seconds = time.Since(start).Seconds()
	if err != nil {
		r.Error = err.Error()
	}
	return r, err
}

// batches is the state of the loop.
type batches struct {
	o        options
	tally    *tally
	progress io.Writer
	w        *world
	chaos    *chaos
	workers  []*worker
	number   uint64
}

// errFabric means that the test environment has failed, so that violations say
// nothing about the node.
var errFabric = errors.New("the network of the VPC did not follow EC2")

// source returns the source of randomness for a batch. Each user has its own stream.
func (l *batches) source(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(l.o.seed+l.number, uint64(stream)))
}

func (l *batches) run(ctx context.Context, end time.Time) error {
	for ; time.Now().Before(end) && ctx.Err() == nil; l.number++ {
		if err := l.world(ctx); err != nil {
			return err
		}
		if goOn, err := l.check(ctx, "batch", l.batch); err != nil || !goOn {
			return err
		}
	}
	if l.w == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := l.check(ctx, "the end", l.finish)
	return err
}

// world creates a VPC with a running agent, unless there is one.
func (l *batches) world(ctx context.Context) error {
	if l.w == nil {
		w, err := newWorld(ctx, l.o, l.tally)
		if err != nil {
			return err
		}
		l.w, l.workers = w, nil
		for i := range l.o.workers {
			l.workers = append(l.workers, &worker{w: w, id: i + 1})
		}
		l.chaos = newChaos(w, nil)
		if problem := l.waitReady(ctx, time.Minute); problem != "" {
			return fmt.Errorf("the agent does not start: %s\n%s", problem, w.logged(4000))
		}
	}
	l.chaos.rng = l.source(0)
	for i, k := range l.workers {
		k.rng = l.source(i + 1)
	}
	return nil
}

// check runs a function that returns violations, prints the outcome, and reports
// whether the loop goes on.
func (l *batches) check(ctx context.Context, name string, do func(context.Context) (observation, []violation)) (goOn bool, err error) {
	start := time.Now()
	p, found := do(ctx)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err := l.w.follower.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", errFabric, err)
	}
	seed := l.o.seed + l.number
	l.tally.batch(found)
	r := l.tally.report()
	adds, refused := r.outcomes("ADD")
	fmt.Fprintf(l.progress, "%s %d (seed %d): %.1f s, %d pods run; so far %d agents and %d plugins killed, ADD %d ok, %d refused\n",
		name, l.number+1, seed, time.Since(start).Seconds(), len(p.Pods), r.AgentKills, r.PluginKills, adds, refused)
	if len(found) == 0 {
		return true, nil
	}
	l.explain(seed, p, found)
	err = l.w.close()
	l.w = nil
	return l.o.continues, err
}

// showEach is the maximum number of violations that are printed for each kind.
const showEach = 5

// explain prints the data for finding the cause of violations.
func (l *batches) explain(seed uint64, p observation, found []violation) {
	out := l.progress
	fmt.Fprintf(out, "VIOLATIONS with seed %d:\n", seed)
	shown := map[violationKind]int{}
	for _, v := range found {
		if shown[v.Kind]++; shown[v.Kind] <= showEach {
			fmt.Fprintln(out, "  "+v.String())
		}
	}
	for _, b := range violationKinds() {
		if n := shown[b] - showEach; n > 0 {
			fmt.Fprintf(out, "  and %d more of %s\n", n, b)
		}
	}
	if l.o.continues {
		return
	}
	fmt.Fprintf(out, "\nthe last events:\n%s\n\nthe agent's log:\n%s\n\nthe observation:\n", l.w.events, l.w.logged(12000))
	e := json.NewEncoder(out)
	e.SetIndent("", " ")
	_ = e.Encode(p) // never fails for such values
	if state, err := l.w.kernel.Observe(context.Background()); err == nil {
		fmt.Fprintf(out, "\nthe node's network:\n%s\n", state)
	}
}

// each calls do for all workers concurrently.
func (l *batches) each(do func(*worker)) {
	var wg sync.WaitGroup
	for _, k := range l.workers {
		wg.Go(func() { do(k) })
	}
	wg.Wait()
}

// batch injects faults, ends them, and returns the violations. In every third batch
// no pods are added or deleted, faults are rare, and the batch takes twice as long:
// then the agent runs long enough to unassign addresses that it does not need.
func (l *batches) batch(ctx context.Context) (observation, []violation) {
	long, quiet := l.o.batch, l.number%3 == 2
	if quiet {
		long *= 2
		l.each(func(k *worker) { k.fill(ctx) })
	}
	l.chaos.rare = quiet
	faults, stop := context.WithTimeout(ctx, long)
	defer stop()
	l.w.mu.Lock()
	l.w.onViolation = stop // so that the last events are those that led to the violation
	l.w.mu.Unlock()
	enabled := func(k kind) bool { return slices.Contains(l.o.kinds, k) }
	var injector, others sync.WaitGroup
	injector.Go(func() { l.chaos.injectFaults(faults) })
	others.Go(func() { l.w.probe(faults) })
	for _, k := range l.workers {
		others.Go(func() {
			if quiet {
				k.watch(faults)
			} else {
				k.work(faults, enabled)
			}
		})
	}
	injector.Wait()
	// Running commands end only if the agent answers.
	if err := l.w.agent.run(); err != nil {
		return observation{}, []violation{{notReady, err.Error()}}
	}
	others.Wait()
	l.w.mu.Lock()
	l.w.onViolation = nil
	l.w.mu.Unlock()
	return l.waitClean(ctx, grace)
}

const (
	// readyWithin is how long the agent may take to become ready after the faults. It
	// pauses up to 30 s between two attempts to start.
	readyWithin = 45 * time.Second
	// cleanWithin is how long observations may have violations before they count. The
	// agent asks the kernel every 20 s, and releases an address after it has twice
	// found its sandbox ended, 10 s apart.
	cleanWithin = 45 * time.Second
	// violatedWithin replaces both if the batch already has a violation: then the
	// observation only adds details.
	violatedWithin = 3 * time.Second
)

// waitClean waits until the agent is ready and an observation has no violation. It
// returns the last observation and its violations.
func (l *batches) waitClean(ctx context.Context, grace time.Duration) (p observation, found []violation) {
	start, ready, clean := time.Now(), readyWithin, cleanWithin
	if l.w.hasViolations() {
		ready, clean = violatedWithin, violatedWithin
	}
	if problem := l.waitReady(ctx, ready); problem != "" {
		found = append(found, violation{notReady, fmt.Sprintf("%v after the faults: %s; %s", ready, problem, l.w.lastLogged())})
	}
	end := time.Now().Add(clean)
	for {
		var err error
		if p, err = l.w.observe(ctx); err != nil {
			return p, append(l.w.takeViolations(), append(found, violation{notReady, err.Error()})...)
		}
		now := p.violations(grace)
		if len(now) == 0 {
			l.tally.recordSettleTime(time.Since(start))
		}
		if len(now) == 0 || time.Now().After(end) || ctx.Err() != nil || len(found) > 0 {
			return p, slices.Concat(l.w.takeViolations(), found, now)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// waitReady waits until the agent is ready. If it does not become ready, waitReady
// returns the problem.
func (l *batches) waitReady(ctx context.Context, within time.Duration) string {
	end := time.Now().Add(within)
	for {
		err := l.w.ready(ctx)
		if err == nil {
			return ""
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return err.Error()
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// finish stops the agent with SIGTERM and starts it again. Then nothing may be left
// of deleted pods. Afterwards finish deletes all pods, and nothing at all may be left.
func (l *batches) finish(ctx context.Context) (observation, []violation) {
	var found []violation
	if !l.w.agent.end(syscall.SIGTERM) {
		found = append(found, violation{notReady, "the agent did not end on SIGTERM"})
	}
	if err := l.w.agent.run(); err != nil {
		return observation{}, []violation{{notReady, err.Error()}}
	}
	p, more := l.waitClean(ctx, 0)
	found = append(found, more...)
	if len(found) > 0 {
		return p, found
	}
	for _, k := range l.workers {
		for len(k.pods) > 0 {
			k.end(0, func(kind) bool { return false })
		}
	}
	return l.waitClean(ctx, 0)
}
