// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// The names of the contenders. All ratios are to ptp.
const (
	emptyName   = "empty"
	flatName    = "flat"
	perPodName  = "per-pod"
	noSweepName = "flat-nosweep"
	ptpName     = "ptp"
)

// contenders returns all contenders, with their nodes and agents. If it returns an
// error, the caller must still stop those that it returns.
func contenders(ctx context.Context, bin string) (all []*contender, err error) {
	for _, k := range []struct {
		name, program string
		layout        datapath.Layout
		sweep         bool
	}{
		{emptyName, "empty", "", false},
		{flatName, "vpc-cni", datapath.Flat, true},
		{perPodName, "vpc-cni", datapath.PerPod, true},
		{noSweepName, "vpc-cni", datapath.Flat, false},
		{ptpName, "ptp", "", false},
	} {
		c, err := newContender(k.name, k.program, bin)
		if err != nil {
			return all, err
		}
		all = append(all, c)
		if k.layout != "" {
			if err := c.serve(ctx, k.layout, k.sweep); err != nil {
				return all, err
			}
		}
	}
	all[len(all)-1].conf = map[string]any{
		"cniVersion": "1.0.0", "name": "peer", "type": "ptp", "mtu": 9001,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": "/run/host-local",
			"ranges": [][]map[string]string{{{"subnet": "10.0.0.0/16"}}},
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	}
	return all, nil
}

// measure measures all contenders in turn.
func measure(ctx context.Context, o options) (r *report, err error) {
	all, err := contenders(ctx, o.bin)
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.stop(), c.node.Delete())
		}
	}()
	if err != nil {
		return nil, err
	}
	r = &report{Rounds: o.rounds, Burst: o.burst, Bursts: o.bursts}
	for _, c := range all {
		r.Rows = append(r.Rows, &row{Name: c.name})
	}
	for i := range o.rounds {
		for k := range all {
			k = (k + i) % len(all) // the first contender changes with each round
			if err := r.Rows[k].measurePod(ctx, all[k], i); err != nil {
				return nil, err
			}
		}
	}
	for i := range o.bursts {
		for k := range all {
			k = (k + i) % len(all)
			if err := r.Rows[k].measureBurst(ctx, all[k], o.burst); err != nil {
				return nil, err
			}
		}
	}
	r.finish()
	return r, nil
}

// measurePod adds and deletes a pod.
func (r *row) measurePod(ctx context.Context, c *contender, i int) (err error) {
	p, err := c.newPod(i)
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
	for i := range n {
		p, err := c.newPod(i)
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
