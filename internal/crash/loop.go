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

// loop runs batches until their time is over, and returns what came of it. An error
// means that the loop could not run.
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

// batches is the loop's state.
type batches struct {
	o        options
	tally    *tally
	progress io.Writer
	w        *world
	chaos    *chaos
	workers  []*worker
	number   uint64
}

// errFabric means that what the loop found says nothing of the node.
var errFabric = errors.New("the VPC did not do what EC2 said")

// source is where a batch's randomness comes from; each user has its own stream.
func (l *batches) source(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(l.o.seed+l.number, uint64(stream)))
}

func (l *batches) run(ctx context.Context, end time.Time) error {
	for ; time.Now().Before(end) && ctx.Err() == nil; l.number++ {
		if err := l.world(ctx); err != nil {
			return err
		}
		if goes, err := l.judge(ctx, "batch", l.batch); err != nil || !goes {
			return err
		}
	}
	if l.w == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := l.judge(ctx, "the end", l.finish)
	return err
}

// world makes a VPC unless there is one, with an agent that serves.
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
		if trouble := l.serve(ctx, time.Minute); trouble != "" {
			return fmt.Errorf("the agent does not start: %s\n%s", trouble, w.logged(4000))
		}
	}
	l.chaos.rng = l.source(0)
	for i, k := range l.workers {
		k.rng = l.source(i + 1)
	}
	return nil
}

// judge does something that finds violations, and reports whether the loop goes
// on.
func (l *batches) judge(ctx context.Context, name string, do func(context.Context) (picture, []violation)) (goes bool, err error) {
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

// showEach is how many violations of a kind are printed.
const showEach = 5

// explain prints what a person needs to find the cause.
func (l *batches) explain(seed uint64, p picture, found []violation) {
	out := l.progress
	fmt.Fprintf(out, "VIOLATIONS with seed %d:\n", seed)
	shown := map[breach]int{}
	for _, v := range found {
		if shown[v.Kind]++; shown[v.Kind] <= showEach {
			fmt.Fprintln(out, "  "+v.String())
		}
	}
	for _, b := range breaches() {
		if n := shown[b] - showEach; n > 0 {
			fmt.Fprintf(out, "  and %d more of %s\n", n, b)
		}
	}
	if l.o.continues {
		return
	}
	fmt.Fprintf(out, "\nthe last events:\n%s\n\nthe agent's log:\n%s\n\nthe picture:\n", l.w.events, l.w.logged(12000))
	e := json.NewEncoder(out)
	e.SetIndent("", " ")
	_ = e.Encode(p) // plain values
	if state, err := l.w.kernel.Observe(context.Background()); err == nil {
		fmt.Fprintf(out, "\nthe node's network:\n%s\n", state)
	}
}

// each has all workers do something at once.
func (l *batches) each(do func(*worker)) {
	var wg sync.WaitGroup
	for _, k := range l.workers {
		wg.Go(func() { do(k) })
	}
	wg.Wait()
}

// batch makes trouble, lets it end, and checks. In every third batch no pod comes
// or goes, trouble is seldom, and it lasts twice as long: then the agent lives long
// enough to give back to EC2 what it takes for surplus.
func (l *batches) batch(ctx context.Context) (picture, []violation) {
	long, quiet := l.o.batch, l.number%3 == 2
	if quiet {
		long *= 2
		l.each(func(k *worker) { k.fill(ctx) })
	}
	l.chaos.seldom = quiet
	trouble, stop := context.WithTimeout(ctx, long)
	defer stop()
	l.w.mu.Lock()
	l.w.onHarm = stop // the last events shall be those that led to it
	l.w.mu.Unlock()
	enabled := func(k kind) bool { return slices.Contains(l.o.kinds, k) }
	var makers, others sync.WaitGroup
	makers.Go(func() { l.chaos.wreak(trouble) })
	others.Go(func() { l.w.probe(trouble) })
	for _, k := range l.workers {
		others.Go(func() {
			if quiet {
				k.watch(trouble)
			} else {
				k.work(trouble, enabled)
			}
		})
	}
	makers.Wait()
	// What has begun can end only if the agent answers.
	if err := l.w.agent.run(); err != nil {
		return picture{}, []violation{{notReady, err.Error()}}
	}
	others.Wait()
	l.w.mu.Lock()
	l.w.onHarm = nil
	l.w.mu.Unlock()
	return l.settle(ctx, grace)
}

const (
	// readyWithin is how long the agent may take to serve once nothing is wrong any
	// more. It pauses up to 30 s between two tries to start.
	readyWithin = 45 * time.Second
	// settleWithin is how long a picture may have violations before they count: the
	// agent asks the kernel every 20 s, and collects what it has found dead twice, 10 s
	// apart.
	settleWithin = 45 * time.Second
	// harmedWithin stands for both when the batch had a violation already: then the
	// picture only tells more of it.
	harmedWithin = 3 * time.Second
)

// settle waits until the agent serves and the picture has no violation.
func (l *batches) settle(ctx context.Context, grace time.Duration) (p picture, found []violation) {
	start, ready, settled := time.Now(), readyWithin, settleWithin
	if l.w.harmed() {
		ready, settled = harmedWithin, harmedWithin
	}
	if trouble := l.serve(ctx, ready); trouble != "" {
		found = append(found, violation{notReady, fmt.Sprintf("%v after the trouble: %s; %s", ready, trouble, l.w.lastLogged())})
	}
	end := time.Now().Add(settled)
	for {
		var err error
		if p, err = l.w.picture(ctx); err != nil {
			return p, append(l.w.takeHarm(), append(found, violation{notReady, err.Error()})...)
		}
		now := p.violations(grace)
		if len(now) == 0 {
			l.tally.settled(time.Since(start))
		}
		if len(now) == 0 || time.Now().After(end) || ctx.Err() != nil || len(found) > 0 {
			return p, slices.Concat(l.w.takeHarm(), found, now)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// serve waits until the agent serves, and says what is wrong if it does not.
func (l *batches) serve(ctx context.Context, within time.Duration) string {
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

// finish restarts the agent in good order: then nothing may be left of what is
// gone. Then all pods end, and nothing may be left at all.
func (l *batches) finish(ctx context.Context) (picture, []violation) {
	var found []violation
	if !l.w.agent.end(syscall.SIGTERM) {
		found = append(found, violation{notReady, "the agent did not end on SIGTERM"})
	}
	if err := l.w.agent.run(); err != nil {
		return picture{}, []violation{{notReady, err.Error()}}
	}
	p, more := l.settle(ctx, 0)
	found = append(found, more...)
	if len(found) > 0 {
		return p, found
	}
	for _, k := range l.workers {
		for len(k.pods) > 0 {
			k.end(0, func(kind) bool { return false })
		}
	}
	return l.settle(ctx, 0)
}
