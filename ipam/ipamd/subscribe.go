// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"sync"

	"github.com/vpcnet/vpcnet/ipam"
)

// Subscribe returns a channel that receives a value after the pool, its queue or an ENI
// has changed, so that a program can read [Agent.Status] then, and a function that ends the
// subscription. Each subscription has its own channel, with a capacity of one, so several
// changes may result in one value. It can be called before Run.
func (a *Agent) Subscribe() (changed <-chan struct{}, stop func()) {
	return a.subs.add()
}

// subscriptions are the readers of an agent. The zero value has none.
type subscriptions struct {
	mu      sync.Mutex
	readers map[chan struct{}]bool
}

func (s *subscriptions) add() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers == nil {
		s.readers = map[chan struct{}]bool{}
	}
	s.readers[c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.readers, c)
	}
}

// run signals that a pool is open, and forwards its changes until ctx ends.
func (s *subscriptions) run(ctx context.Context, pool *ipam.Pool) error {
	changed, stop := pool.Subscribe()
	defer stop()
	for {
		s.signal()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *subscriptions) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.readers {
		signal(c)
	}
}
