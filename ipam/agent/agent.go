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
	// Pool is the pool to manage. Required. Only one agent may manage it.
	Pool *ipam.Pool
	// Provider and Links are required.
	Provider Provider
	Links    Links
	// Policy decides how much spare capacity the node has. It runs as
	// warmpool.AgentPolicy composes it. Required unless only IPv6 is served.
	Policy warmpool.Policy
	// Limits are the limits of each network card; the index is the card. At
	// least one is required.
	Limits []warmpool.Limits
	// Families are the families of addresses that pods get: IPv4, IPv6 or both.
	// Empty means IPv4. The policy counts only IPv4: one IPv6 prefix is enough for
	// an ENI.
	Families []ipam.Family
	// Demand knows the pods that are bound to the node, so that the pool grows before
	// the runtime asks for their addresses. They get them on the network card
	// DemandCard. Nil means that only waiting pods are known.
	Demand     Demand
	DemandCard int
	// Kernel reports which addresses are in use, at the start and at each audit.
	// The Witness of the pool should query the same kernel. Nil means that the
	// agent relies on the journal alone.
	Kernel Kernel
	// Known are the ENIs of an earlier process in the same boot. Until the
	// provider has answered, the agent maintains their links and serves pods from
	// those of their blocks that are in the pool. Optional.
	Known []ENI
	// Notify receives events. It runs on goroutines of the agent and must return
	// quickly. Optional.
	Notify func(Event)
	// Released is called with the allocations that the agent has released because their
	// sandboxes ended without a DEL. It runs on goroutines of the agent and must return
	// quickly. Optional.
	Released func([]ipam.Allocation)
	// Tombstones calls release for each attachment that was deleted while no agent
	// was running, and deletes its record when release returns nil. Optional.
	Tombstones func(ctx context.Context, release func(ipam.Attachment) error) error
	// Rand returns numbers in [0, 1) for jitter. Nil means math/rand/v2.
	Rand func() float64
	// Logger receives every decision. Nil discards.
	Logger *slog.Logger
}

// callTimeout limits each task that calls the Provider or the Links. It is enough to create
// an ENI, attach it and find it in the metadata even when EC2 is slow.
const callTimeout = 3 * time.Minute

// errConfig is the error of New for a Config that cannot work.
var errConfig = errors.New("agent configuration")

// Agent fills a pool and serves requests from it. All methods are safe for
// concurrent use.
type Agent struct {
	cfg      Config
	cards    int
	families []ipam.Family
	rand     func() float64
	log      *slog.Logger
	refresh  chan struct{}
	changed  chan struct{} // a value means that next is set
	ready    chan struct{} // closed when Status.Ready is set

	mu       sync.Mutex
	next     *rules
	started  bool
	status   Status
	retryAt  time.Time
	suspects map[ipam.Attachment]suspect
}

// New creates an agent. Before Run it starts nothing, but Allocate and Release
// work with the pool as its journal restored it. The error describes what is
// wrong with cfg.
func New(cfg Config) (*Agent, error) {
	a := &Agent{
		cfg: cfg, cards: len(cfg.Limits), families: slices.Clone(cfg.Families), rand: cfg.Rand,
		log: cfg.Logger, refresh: make(chan struct{}, 1), changed: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	if len(a.families) == 0 {
		a.families = []ipam.Family{ipam.IPv4}
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
		bad = fmt.Sprintf("has families %v, want IPv4 and IPv6, each at most once", cfg.Families)
	}
	if bad != "" {
		return nil, fmt.Errorf("%w %s", errConfig, bad)
	}
	if err := a.checkPolicy(cfg.Policy); err != nil {
		return nil, err
	}
	a.status = Status{Reason: ipam.ReasonAgentStarting, Evidence: "the agent is not running yet"}
	a.setOutlooks(ipam.Outlook{Reason: a.status.Reason, Evidence: a.status.Evidence})
	return a, nil
}

// checkPolicy returns an error for a policy that the agent cannot run.
func (a *Agent) checkPolicy(p warmpool.Policy) error {
	if p == nil && a.families[0] != ipam.IPv4 {
		return nil
	}
	if p == nil {
		return fmt.Errorf("%w needs a policy for IPv4", errConfig)
	}
	if err := warmpool.CheckPolicy(p); err != nil {
		return fmt.Errorf("%w has an incomplete policy: %w", errConfig, err)
	}
	return nil
}

func (a *Agent) setOutlooks(o ipam.Outlook) {
	for card := range a.cards {
		for _, f := range a.families {
			a.cfg.Pool.SetOutlook(card, f, o)
		}
	}
}

// Allocate calls ipam.Pool.Allocate. A request without families gets those of
// the Config. If the pool refuses the request, Allocate releases the attachments
// of sandboxes that ended without a DEL and, if there were any, tries again.
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

// Release calls ipam.Pool.Release.
func (a *Agent) Release(attachment ipam.Attachment) ([]ipam.Allocation, error) {
	return a.cfg.Pool.Release(attachment)
}

// Refresh requests a new observation, after which all links are verified again.
// A caller uses it when an ENI was attached or detached outside of the agent, or
// when a link has changed. It returns at once.
func (a *Agent) Refresh() {
	select {
	case a.refresh <- struct{}{}:
	default:
	}
}

// Run manages the pool until ctx ends, and then returns nil. It begins by
// releasing the attachments of ended sandboxes and of tombstones, observing the
// ENIs and verifying their links. When it returns, all its goroutines have ended.
// It may be called only once.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	ran := a.started
	a.started = true
	a.mu.Unlock()
	if ran {
		return fmt.Errorf("%w: Run was called twice", errConfig)
	}
	l := a.newLoop()
	l.deadCollected = a.releaseEnded(ctx)
	l.restoreKnown()
	l.run(ctx)
	return nil
}

// newLoop returns the state of Run at its start.
func (a *Agent) newLoop() *loop {
	return &loop{
		Agent: a, policy: warmpool.AgentPolicy(a.cfg.Policy), limits: a.cfg.Limits,
		results: make(chan result), backoffs: map[key]*backoff{},
		links: map[string]*link{}, gone: map[string]bool{}, memory: map[int]warmpool.Memory{},
		decided: map[int]warmpool.Decision{}, uncertainAt: time.Now(), auditDue: true,
	}
}

// run takes turns until ctx ends, then waits for the tasks under way.
func (l *loop) run(ctx context.Context) {
	changed, unsubscribe := l.cfg.Pool.Subscribe()
	defer unsubscribe()
	demand := l.demandChanged()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Stop()
		if at := l.turn(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		l.launch(ctx)
		select {
		case <-changed:
		case <-demand:
		case <-l.changed:
		case r := <-l.results:
			l.finish(ctx, r)
			l.finishWaiting(ctx)
		case <-l.refresh:
			l.needObservation(time.Now())
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	stopping := ipam.Outlook{Reason: ipam.ReasonAgentStopping, Evidence: "the agent was asked to stop", Final: true}
	l.setOutlooks(stopping)
	l.mu.Lock()
	l.status.Ready, l.status.Reason, l.status.Evidence = false, stopping.Reason, stopping.Evidence
	l.mu.Unlock()
	for len(l.tasks) > 0 {
		l.finish(ctx, <-l.results)
	}
	l.wg.Wait()
}

// finishWaiting applies the outcomes of further tasks that have ended, so that one turn
// serves them all.
func (l *loop) finishWaiting(ctx context.Context) {
	for {
		select {
		case r := <-l.results:
			l.finish(ctx, r)
		default:
			return
		}
	}
}

// releaseEnded releases the attachments of sandboxes that ended while no agent
// was running. Attachments with a request since the start are not affected. It
// reports whether the kernel has answered.
func (a *Agent) releaseEnded(ctx context.Context) bool {
	_, deadErr := a.collectDead(ctx, true)
	if deadErr != nil {
		a.log.Error("release the attachments of ended sandboxes", "err", deadErr)
	}
	if a.cfg.Tombstones == nil {
		return deadErr == nil
	}
	err := a.cfg.Tombstones(ctx, func(attachment ipam.Attachment) error {
		_, err := a.cfg.Pool.Release(attachment)
		if errors.Is(err, ipam.ErrNotAllocated) {
			return nil
		}
		a.log.Info("released: tombstone", "attachment", attachment)
		return err
	})
	if err != nil {
		a.log.Error("collect tombstones", "err", err)
	}
	return deadErr == nil
}
