// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// Config configures an Agent.
type Config struct {
	// Pool is the pool to keep. Required. The agent is its only keeper.
	Pool *ipam.Pool
	// Provider and Links are required.
	Provider Provider
	Links    Links
	// Policy decides how much spare capacity there is; it runs as
	// warmpool.AgentPolicy composes it. Required unless only IPv6 is served.
	Policy warmpool.Policy
	// Limits of each network card; the index is the card. At least one.
	Limits []warmpool.Limits
	// Families that pods get: IPv4, IPv6, or IPv4 and IPv6. Empty means IPv4.
	// The policy counts IPv4; of IPv6 an ENI gets one prefix and needs no more.
	Families []ipam.Family
	// Kernel is asked at the start and at each audit what is in use. Give the
	// pool a Witness over the same kernel. Nil means that the journal's word is
	// all there is.
	Kernel Kernel
	// Known are the ENIs as a process before this one has left them, in the same
	// boot. Until the provider has answered, their links are kept up, and the
	// blocks among theirs that the pool has serve pods. Optional.
	Known []ENI
	// Notify is told of events, on the agent's goroutines; it must be quick.
	// Optional.
	Notify func(Event)
	// Tombstones calls release for each attachment whose DEL happened while no
	// agent ran, and forgets it when release returns nil. Optional.
	Tombstones func(ctx context.Context, release func(ipam.Attachment) error) error
	// CallTimeout bounds each piece of work with Provider and Links. Zero means
	// DefaultCallTimeout.
	CallTimeout time.Duration
	// Rand returns numbers in [0, 1) for jitter. Nil means math/rand/v2.
	Rand func() float64
	// Logger receives every decision. Nil discards.
	Logger *slog.Logger
}

// DefaultCallTimeout is time enough to create an ENI, attach it and see it in
// the metadata on a slow day.
const DefaultCallTimeout = 3 * time.Minute

// ErrConfig is returned by New for a Config that cannot work.
var ErrConfig = errors.New("agent configuration")

// Agent keeps a pool filled. All methods are safe for concurrent use.
type Agent struct {
	cfg         Config
	policy      warmpool.Policy // as warmpool.AgentPolicy composes it
	families    []ipam.Family
	callTimeout time.Duration
	rand        func() float64
	log         *slog.Logger
	refresh     chan struct{}

	mu       sync.Mutex
	ran      bool
	status   Status
	retryAt  time.Time
	suspects map[ipam.Attachment]suspect
}

// New makes an agent. It does nothing before Run, but already serves Allocate
// and Release from what the pool remembers.
func New(cfg Config) (*Agent, error) {
	a := &Agent{
		cfg: cfg, policy: warmpool.AgentPolicy(cfg.Policy), families: slices.Clone(cfg.Families), callTimeout: cfg.CallTimeout, rand: cfg.Rand,
		log: cfg.Logger, refresh: make(chan struct{}, 1),
	}
	if len(a.families) == 0 {
		a.families = []ipam.Family{ipam.IPv4}
	}
	if a.callTimeout == 0 {
		a.callTimeout = DefaultCallTimeout
	}
	if a.rand == nil {
		a.rand = rand.Float64
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	slices.Sort(a.families)
	bad := ""
	switch {
	case cfg.Pool == nil || cfg.Provider == nil || cfg.Links == nil:
		bad = "needs a pool, a provider and links"
	case len(cfg.Limits) == 0:
		bad = "needs the limits of card 0"
	case a.families[0] != ipam.IPv4 && a.families[0] != ipam.IPv6 || len(slices.Compact(a.families)) != len(a.families):
		bad = fmt.Sprintf("has families %v", cfg.Families)
	case cfg.Policy == nil && a.families[0] == ipam.IPv4:
		bad = "needs a policy for IPv4"
	}
	if bad != "" {
		return nil, fmt.Errorf("%w %s", ErrConfig, bad)
	}
	a.status = Status{Reason: ipam.ReasonAgentStarting, Evidence: "the agent has not been run"}
	a.setOutlooks(ipam.Outlook{Reason: a.status.Reason, Evidence: a.status.Evidence})
	return a, nil
}

func (a *Agent) setOutlooks(o ipam.Outlook) {
	for card := range a.cfg.Limits {
		for _, f := range a.families {
			a.cfg.Pool.SetOutlook(card, f, o)
		}
	}
}

// Allocate is ipam.Pool.Allocate. A request without families gets those of the
// Config. Before a request is refused, what belongs to sandboxes that ended
// without a DEL is released.
func (a *Agent) Allocate(ctx context.Context, r ipam.Request) ([]ipam.Allocation, error) {
	if len(r.Families) == 0 {
		r.Families = a.families
	}
	got, err := a.cfg.Pool.Allocate(ctx, r)
	if !errors.Is(err, ipam.ErrExhausted) || ctx.Err() != nil {
		return got, err
	}
	if n, deadErr := a.collectDead(ctx, true); n == 0 {
		return nil, errors.Join(err, deadErr)
	}
	return a.cfg.Pool.Allocate(ctx, r)
}

// Release is ipam.Pool.Release.
func (a *Agent) Release(at ipam.Attachment) ([]ipam.Allocation, error) {
	return a.cfg.Pool.Release(at)
}

// Refresh asks for a new observation, for a caller that saw an ENI come or go
// by itself, or a link change. All links are verified anew. It returns at once.
func (a *Agent) Refresh() {
	select {
	case a.refresh <- struct{}{}:
	default:
	}
}

// Run keeps the pool until ctx ends, and returns nil then. First it releases
// what belongs to ended sandboxes and tombstones, observes the ENIs and
// verifies their links. All goroutines it starts have ended when it returns.
// It may be called once.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	ran := a.ran
	a.ran = true
	a.mu.Unlock()
	if ran {
		return fmt.Errorf("%w: Run was called before", ErrConfig)
	}
	l := &loop{
		Agent: a, ctx: ctx, results: make(chan result), tasks: map[key]task{}, backoffs: map[key]*backoff{},
		links: map[string]*link{}, gone: map[string]bool{}, memory: map[int]warmpool.Memory{},
		decided: map[int]warmpool.Decision{}, wanted: time.Now(), auditDue: true,
	}
	a.collect(ctx)
	l.recall()
	l.run()
	return nil
}

// run turns until the context ends, then waits for the work under way.
func (l *loop) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for l.ctx.Err() == nil {
		timer.Stop()
		if at := l.turn(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		select {
		case <-l.cfg.Pool.Changed():
		case r := <-l.results:
			l.finish(r)
		case <-l.refresh:
			l.want(time.Now())
		case <-timer.C:
		case <-l.ctx.Done():
		}
	}
	stopping := ipam.Outlook{Reason: ipam.ReasonAgentStopping, Evidence: "the agent was asked to stop", Final: true}
	l.setOutlooks(stopping)
	l.mu.Lock()
	l.status.Ready, l.status.Reason, l.status.Evidence = false, stopping.Reason, stopping.Evidence
	l.mu.Unlock()
	for len(l.tasks) > 0 {
		l.finish(<-l.results)
	}
	l.wg.Wait()
}

func (l *loop) finish(r result) {
	delete(l.tasks, r.key)
	r.apply()
}

// collect releases what belongs to sandboxes that went while no agent ran.
// Requests that arrive meanwhile are safe: only what was there before counts.
func (a *Agent) collect(ctx context.Context) {
	if _, err := a.collectDead(ctx, true); err != nil {
		a.log.Error("release what ended sandboxes held", "err", err)
	}
	if a.cfg.Tombstones == nil {
		return
	}
	err := a.cfg.Tombstones(ctx, func(at ipam.Attachment) error {
		_, err := a.cfg.Pool.Release(at)
		if errors.Is(err, ipam.ErrNotAllocated) {
			return nil
		}
		a.log.Info("released: tombstone", "attachment", at)
		return err
	})
	if err != nil {
		a.log.Error("collect tombstones", "err", err)
	}
}
