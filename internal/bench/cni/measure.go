// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
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

func atOnce(ctx context.Context, pods []*pod, verb string) (time.Duration, error) {
	errs := make(chan error)
	start := time.Now()
	for _, p := range pods {
		go func() {
			_, err := p.call(ctx, verb)
			errs <- err
		}()
	}
	var err error
	for range pods {
		err = errors.Join(err, <-errs)
	}
	return time.Since(start), err
}
