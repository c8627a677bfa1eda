// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// batcher joins describe calls for single ENIs into one.
type batcher struct {
	mu   sync.Mutex
	open *batch // the batch that still takes members, or nil
}

// batch is one call for several ENIs. After done is closed nothing changes.
type batch struct {
	ids  map[string]bool
	done chan struct{}
	enis map[string]ENI
	err  error
}

// batchMost is how many IDs one call may carry: EC2 takes 200 values a filter.
const batchMost = 200

// describeENI looks one ENI up by its ID. It reports false if EC2 does not know
// it, or does not know it yet.
func (c *Client) describeENI(ctx context.Context, id string) (ENI, bool, error) {
	for {
		b, leader := c.batch.join(id)
		if leader {
			c.runBatch(ctx, b)
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return ENI{}, false, &OpError{Op: "DescribeNetworkInterfaces", ENI: id, Why: ReasonUnreachable, Err: ctx.Err()}
		}
		given := errors.Is(b.err, context.Canceled) || errors.Is(b.err, context.DeadlineExceeded)
		if given && !leader && ctx.Err() == nil {
			continue // whoever made the call gave up; that is not our end
		}
		e, ok := b.enis[id]
		return e, ok, b.err
	}
}

// join adds an ID to the open batch, or opens one.
func (b *batcher) join(id string) (_ *batch, leader bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.open; o != nil && (o.ids[id] || len(o.ids) < batchMost) {
		o.ids[id] = true
		return o, false
	}
	b.open = &batch{ids: map[string]bool{id: true}, done: make(chan struct{})}
	return b.open, true
}

// seal ends the batch's time for joining and returns its IDs.
func (b *batcher) seal(o *batch) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == o {
		b.open = nil
	}
	return slices.Sorted(maps.Keys(o.ids))
}

// runBatch makes the call of a batch. Others can join until it has a token of
// the budget and is sent.
func (c *Client) runBatch(ctx context.Context, b *batch) {
	defer close(b.done)
	defer c.batch.seal(b)
	if c.cfg.Coalesce > 0 {
		if b.err = sleep(ctx, c.cfg.Coalesce); b.err != nil {
			return
		}
	}
	enis, err := c.listENIs(ctx, func() []filter {
		return []filter{{"network-interface-id", c.batch.seal(b)}}
	})
	b.err = err
	b.enis = make(map[string]ENI, len(enis))
	for _, e := range enis {
		b.enis[e.ID] = e
	}
}
