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

// repairTimeout is the time after which a damage counts as not repaired.
const repairTimeout = 10 * time.Second

// inFlight is how long a packet and its answer may be in flight, when the host
// outside has to wait for a processor. A damage may hit packets that were sent up to
// inFlight before it, or before the end of its repair.
const inFlight = 20 * time.Millisecond

// slowEvery is the number of damages of which one is slow, because the bound of a
// slow damage is long.
const slowEvery = 10

// measure does random damage to a node in one layout, and measures the repairs and
// the lost packets.
func measure(ctx context.Context, o options, layout datapath.Layout) (r row, err error) {
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
	flows, stopFlows, err := n.startFlows(ctx)
	if err != nil {
		return r, err
	}
	r = row{Layout: layout, Seconds: o.duration.Seconds()}
	windows, err := n.doDamage(ctx, o, &r, observers{repairs, flows})
	stopFlows()
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

// watch starts Watch, which sends each repair to the returned channel. The returned
// function stops it.
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

// startFlows starts a flow from each address of the pod. The caller must call stopFlows.
func (n *node) startFlows(ctx context.Context) (flows []*flow, stopFlows func(), err error) {
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

// observers are the sources of doDamage's observations.
type observers struct {
	repairs <-chan datapath.Repair
	flows   []*flow
}

// doDamage does damage for the duration of o, and returns the windows in which
// packets may be lost: from a damage until its repair, and at least for the bound.
// Between two windows there is a time in which no packet may be lost.
func (n *node) doDamage(ctx context.Context, o options, r *row, w observers) (windows []window, err error) {
	all := damages(n.want)
	slow := slices.DeleteFunc(slices.Clone(all), func(d damage) bool { return !d.slow })
	fast := slices.DeleteFunc(all, func(d damage) bool { return d.slow })
	var repair, total, passing []time.Duration
	for deadline := time.Now().Add(o.duration); time.Now().Before(deadline) && ctx.Err() == nil; {
		d := fast[rand.IntN(len(fast))]
		if r.Damages%slowEvery == slowEvery-1 {
			d = slow[rand.IntN(len(slow))]
		}
		for len(w.repairs) > 0 {
			<-w.repairs // of an earlier damage
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
		end := time.Now()
		passed := waitPassing(w.flows, end, start.Add(bound))
		repair, total, passing = append(repair, took), append(total, end.Sub(start)), append(passing, passed.Sub(start))
		windowEnd := start.Add(bound)
		if t := end.Add(inFlight); t.After(windowEnd) {
			windowEnd = t
		}
		windows = append(windows, window{start.Add(-inFlight), windowEnd, d.name()})
		select {
		case <-time.After(time.Until(windowEnd) + time.Duration(50+rand.IntN(100))*time.Millisecond):
		case <-ctx.Done():
		}
	}
	r.Repair, r.Total, r.Passing = timesOf(repair), timesOf(total), timesOf(passing)
	return windows, ctx.Err()
}

// repaired waits until the state of the node is the desired one. It returns the time
// of the first repair, from the kernel's report to its end, and whether the node was
// repaired before repairTimeout.
func (n *node) repaired(ctx context.Context, repairs <-chan datapath.Repair) (took time.Duration, ok bool, err error) {
	timeout := time.NewTimer(repairTimeout)
	defer timeout.Stop()
	for first := true; ; first = false {
		select {
		case r := <-repairs:
			if first {
				took = r.Took
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

// timesOf returns the percentiles of all. It sorts all in place.
func timesOf(all []time.Duration) times {
	if len(all) == 0 {
		return times{}
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return times{ms(all[len(all)/2]), ms(all[len(all)*99/100]), ms(all[len(all)-1])}
}
