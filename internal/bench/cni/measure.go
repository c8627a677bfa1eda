// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// measure measures all scenarios.
func measure(ctx context.Context, o options) (*report, error) {
	r := &report{Rounds: o.rounds, Burst: o.burst, Bursts: o.bursts}
	for _, s := range scenarios(o) {
		t, err := s.measure(ctx, o)
		if err != nil {
			return nil, err
		}
		r.Tables = append(r.Tables, t)
	}
	return r, nil
}

// measurePod adds and deletes a pod.
func (r *row) measurePod(ctx context.Context, c *contender) (err error) {
	p, err := c.newPod()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.waitSweeps(), p.sandbox.Delete()) }()
	add, err := p.call(ctx, "ADD")
	if err != nil {
		return err
	}
	del, err := p.call(ctx, "DEL")
	r.add, r.del = append(r.add, add), append(r.del, del)
	return err
}

// measureBurst adds n pods at once, and then deletes them at once. It measures from
// the first exec to the last exit.
func (r *row) measureBurst(ctx context.Context, c *contender, n int) (err error) {
	var pods []*pod
	defer func() {
		err = errors.Join(err, c.waitSweeps())
		for _, p := range pods {
			err = errors.Join(err, p.sandbox.Delete())
		}
	}()
	for range n {
		p, err := c.newPod()
		if err != nil {
			return err
		}
		pods = append(pods, p)
	}
	add, err := atOnce(ctx, pods, "ADD")
	if err != nil {
		return fmt.Errorf("%d at once: %w", n, err)
	}
	del, err := atOnce(ctx, pods, "DEL")
	r.burstAdd, r.burstDel = append(r.burstAdd, add), append(r.burstDel, del)
	return err
}

// burst is what a burst takes: the time from the first exec to the last exit, the CPU time
// of its processes, and the part of the time of all CPUs that was idle.
type burst struct {
	wall, cpu time.Duration
	idle      float64
}

func atOnce(ctx context.Context, pods []*pod, verb string) (b burst, err error) {
	type outcome struct {
		cost cost
		err  error
	}
	outcomes := make(chan outcome)
	idle, all, err := cpuTicks()
	if err != nil {
		return b, err
	}
	start := time.Now()
	for _, p := range pods {
		go func() {
			c, err := p.call(ctx, verb)
			outcomes <- outcome{c, err}
		}()
	}
	for range pods {
		o := <-outcomes
		b.cpu += o.cost.cpu
		err = errors.Join(err, o.err)
	}
	b.wall = time.Since(start)
	idleAfter, allAfter, readErr := cpuTicks()
	b.idle = (idleAfter - idle) / max(1, allAfter-all)
	return b, errors.Join(err, readErr)
}

// cpuTicks returns the time that all CPUs have been idle, and their whole time, in ticks of
// 10 ms as /proc/stat has them.
func cpuTicks() (idle, all float64, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	for i, f := range strings.Fields(line)[1:] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		switch i {
		case 3, 4: // idle, iowait
			idle += n
		case 8, 9: // guest times are in user time already
			continue
		}
		all += n
	}
	return idle, all, nil
}
