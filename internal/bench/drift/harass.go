// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// patience is how long a repair may take before it counts as none.
const patience = 10 * time.Second

// inFlight is how long before a damage, or before the end of its repair, a packet may
// have been sent that meets it, with the host outside waiting for a processor.
const inFlight = 20 * time.Millisecond

// slowEvery is how often a damage is a slow one, whose bound is long.
const slowEvery = 10

// harass does random damage to a node in one layout, and waits for each repair.
func harass(ctx context.Context, o options, layout datapath.Layout) (r row, err error) {
	n, err := newNode(ctx, layout)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	before, err := n.h.Observe(ctx)
	if err != nil {
		return r, err
	}
	repairs, unwatch := n.watch(ctx)
	defer func() { err = errors.Join(err, unwatch()) }()
	flows, quiet, err := n.talk(ctx)
	if err != nil {
		return r, err
	}
	r = row{Layout: layout, Seconds: o.duration.Seconds()}
	windows, err := n.rage(ctx, o, &r, rounds{repairs, flows})
	quiet()
	if err != nil {
		return r, err
	}
	for _, f := range flows {
		within, after := f.lost(windows)
		r.Packets, r.LostWithin, r.LostAfter = r.Packets+len(f.sent), r.LostWithin+within, r.LostAfter+len(after)
		r.Late = append(r.Late, after...)
	}
	after, err := n.h.Observe(ctx)
	if err != nil {
		return r, err
	}
	r.Foreign = len(netstate.Diff(before, after))
	return r, nil
}

// watch starts Watch. Each repair's end comes by the channel.
func (n *node) watch(ctx context.Context) (<-chan datapath.Repair, func() error) {
	repairs, done := make(chan datapath.Repair, 1000), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		done <- n.h.Watch(ctx, datapath.WatchConfig{
			Desired:  func() datapath.Desired { return n.want },
			Repaired: func(r datapath.Repair) { repairs <- r },
		})
	}()
	return repairs, func() error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return fmt.Errorf("watch: %w", err)
		}
		return nil
	}
}

// talk starts a flow for each address of the pod; the returned function ends them.
func (n *node) talk(ctx context.Context) (flows []*flow, quiet func(), err error) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, a := range n.want.Pods[0].Addrs {
		f, err := newFlow(ctx, n.sandbox, a.Addr)
		if err != nil {
			close(stop)
			return nil, nil, err
		}
		flows = append(flows, f)
		wg.Go(func() { f.run(stop) })
	}
	return flows, func() { close(stop); wg.Wait() }, nil
}

// rounds are what rage watches.
type rounds struct {
	repairs <-chan datapath.Repair
	flows   []*flow
}

// rage does damage until the time is over, and returns when packets may be lost:
// for the bound after a damage, and until it is repaired. Then the node has a while in which nothing may be
// lost.
func (n *node) rage(ctx context.Context, o options, r *row, w rounds) (windows []window, err error) {
	all := damages(n.want)
	slow := slices.DeleteFunc(slices.Clone(all), func(d damage) bool { return !d.slow })
	fast := slices.DeleteFunc(all, func(d damage) bool { return d.slow })
	var report, total, outage []time.Duration
	for end := time.Now().Add(o.duration); time.Now().Before(end) && ctx.Err() == nil; {
		d := fast[rand.IntN(len(fast))]
		if r.Damages%slowEvery == slowEvery-1 {
			d = slow[rand.IntN(len(slow))]
		}
		for len(w.repairs) > 0 {
			<-w.repairs // the last of a damage that was made good before
		}
		start, bound := time.Now(), o.bound
		if d.slow {
			bound = max(bound, slowBound)
		}
		if err := n.hostile.Apply(ctx, []netstate.Change{d.Change}); err != nil {
			return windows, fmt.Errorf("%s: %w", d, err)
		}
		took, ok, err := n.repaired(ctx, w.repairs)
		if err != nil {
			return windows, err
		}
		r.Damages++
		if !ok {
			r.Unrepaired++
			r.Stayed = append(r.Stayed, d.name())
		}
		whole := time.Now()
		passed := again(w.flows, whole, start.Add(bound))
		report, total, outage = append(report, took), append(total, whole.Sub(start)), append(outage, passed.Sub(start))
		closes := start.Add(bound)
		if after := whole.Add(inFlight); after.After(closes) {
			closes = after
		}
		windows = append(windows, window{start.Add(-inFlight), closes, d.name()})
		select {
		case <-time.After(time.Until(closes) + time.Duration(50+rand.IntN(100))*time.Millisecond):
		case <-ctx.Done():
		}
	}
	r.Repair, r.Total, r.Passing = timesOf(report), timesOf(total), timesOf(outage)
	return windows, ctx.Err()
}

// repaired waits until nothing differs, and returns how long the first repair
// took from the kernel's report to its end.
func (n *node) repaired(ctx context.Context, repairs <-chan datapath.Repair) (took time.Duration, ok bool, err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for first := true; ; first = false {
		select {
		case f := <-repairs:
			if first {
				took = f.Took
			}
		case <-timeout.C:
			return took, false, nil
		case <-ctx.Done():
			return took, false, ctx.Err()
		}
		have, err := n.hostile.Observe(ctx)
		if err != nil {
			return took, false, err
		}
		if len(n.want.Drift(have)) == 0 {
			return took, true, nil
		}
	}
}

// timesOf sorts all.
func timesOf(all []time.Duration) times {
	if len(all) == 0 {
		return times{}
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return times{ms(all[len(all)/2]), ms(all[len(all)*99/100]), ms(all[len(all)-1])}
}
