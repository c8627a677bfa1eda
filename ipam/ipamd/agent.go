// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin/server"
)

// Agent is a node agent. Create one with [New]. It is safe for concurrent use.
type Agent struct {
	subs    subscriptions
	started atomic.Bool
	node    atomic.Pointer[node] // nil until Run has opened it
	ready   chan struct{}

	mu    sync.Mutex
	cfg   Config   // the present one
	parts *started // nil until the instance is known
}

// New returns an agent. It opens nothing. It returns an error for a configuration that
// no node can have.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg, ready: make(chan struct{})}, nil
}

// Run runs the agent until ctx ends, and then returns nil. It opens the socket first, so
// that plugins get an answer even while the agent is starting. It waits for EC2 and the
// metadata service for as long as necessary, and returns an error only if the agent
// cannot run: another agent has the socket or the state directory, or a file or the
// network namespace cannot be opened. Everything that the next process needs is in the
// state directory at any time. An agent runs only once.
func (a *Agent) Run(ctx context.Context) (err error) {
	if a.started.Swap(true) {
		return fmt.Errorf("%w: Run was called twice", ErrConfig)
	}
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	a.node.Store(n)
	n.log.Info("agent listens", "socket", n.cfg.Socket, "layout", n.cfg.Layout, "policy", fmt.Sprintf("%T", n.cfg.Policy))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return (&server.Server{Backend: n.backend, SweepSoon: n.links.SweepSoon, Further: n.cfg.Handler, Logger: n.log}).Serve(ctx, n.listener)
	})
	g.Go(func() error { return n.links.Sweep(ctx, n.log) })
	g.Go(func() error { return n.policies.run(ctx) })
	g.Go(func() error { return a.subs.run(ctx, n.pool) })
	g.Go(func() error {
		st, err := n.start(ctx)
		if err != nil || st == nil {
			return err
		}
		if err := a.publish(n, st); err != nil {
			return err
		}
		g.Go(func() error { return n.audit(ctx, st) })
		g.Go(func() error { return n.sweep(ctx, st.client, st.manager) })
		g.Go(func() error { return n.whenReady(ctx, st, a.ready) })
		return st.agent.Run(ctx)
	})
	return g.Wait()
}
