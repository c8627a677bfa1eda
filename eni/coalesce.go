// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// batcher combines describe calls for single ENIs into one call.
type batcher struct {
	mu   sync.Mutex
	open *batch // the batch that still accepts IDs, or nil
}

// batch is one call for several ENIs. It does not change after done is closed.
type batch struct {
	ids  map[string]bool
	done chan struct{}
	enis map[string]ENI
	err  error
}

// maxBatch is the maximum number of IDs in one call: EC2 accepts 200 values in a
// filter.
const maxBatch = 200

// describeENI returns EC2's description of one ENI. It reports false if EC2 does
// not show the ENI, or does not show it yet.
func (c *Client) describeENI(ctx context.Context, id string) (ENI, bool, error) {
	for {
		b, leader := c.batch.join(id)
		if leader {
			c.runBatch(ctx, b)
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return ENI{}, false, &OpError{Op: "DescribeNetworkInterfaces", ENI: id, reason: ReasonUnreachable, Err: ctx.Err()}
		}
		canceled := errors.Is(b.err, context.Canceled) || errors.Is(b.err, context.DeadlineExceeded)
		if canceled && !leader && ctx.Err() == nil {
			continue // the caller that made the call was canceled, but this one was not
		}
		e, ok := b.enis[id]
		return e, ok, b.err
	}
}

// join adds an ID to the open batch, or opens one.
func (b *batcher) join(id string) (_ *batch, leader bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.open; o != nil && (o.ids[id] || len(o.ids) < maxBatch) {
		o.ids[id] = true
		return o, false
	}
	b.open = &batch{ids: map[string]bool{id: true}, done: make(chan struct{})}
	return b.open, true
}

// seal closes the batch to further IDs and returns its IDs.
func (b *batcher) seal(o *batch) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == o {
		b.open = nil
	}
	return slices.Sorted(maps.Keys(o.ids))
}

// runBatch makes the call of a batch. Other callers can join it until the call has
// a token of the budget and is sent.
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
