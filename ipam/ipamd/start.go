// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// The pause between two attempts to start begins with firstPause and doubles up to
// maxPause.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// start creates the agent, and tries until that succeeds. With the node record of an
// earlier process of the boot it succeeds at once, and otherwise as soon as EC2 or
// the metadata service describes the instance. It returns nil if ctx ends first.
func (n *node) start(ctx context.Context) (*started, error) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		st, err := n.prepare(ctx)
		if err == nil {
			return st, n.newAgent(st)
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		err = n.advise(err)
		n.backend.SetProblem(err)
		n.log.Error("agent cannot start yet", "err", err, "reason", reasonOf(err), "retry", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// started has the parts that exist once the instance is known.
type started struct {
	pool    *ipam.Pool
	agent   *agent.Agent
	client  *eni.Client
	manager *eni.Manager
	limits  instancetype.Limits
	cards   []int // with addresses for pods
	// regroup receives a value when the ENIs may have other security groups than the
	// configuration chooses.
	regroup chan struct{}
	// look receives a value when audit is not to wait for the next tick.
	look chan struct{}
	// observed receives a value after a source has shown the ENIs, or has failed to.
	observed chan struct{}
}

const (
	// auditEvery is how often the agent checks for unfinished operations, tombstones
	// and changes that the metadata service shows.
	auditEvery = 30 * time.Second
	// retryEC2Every is how often the agent observes again while EC2 does not answer.
	retryEC2Every = 5 * time.Second
	// finishTime bounds an attempt to finish operations, so that it does not delay the
	// audit.
	finishTime = 15 * time.Second
)

// audit periodically checks for changes, without a call to EC2. It refreshes the
// agent if the metadata service shows ENIs or addresses that the manager does not
// know, or if an unfinished operation could be finished. It releases the addresses
// of tombstones, which plugins leave while the agent is too busy for them, and
// follows the prefixes of the VPC. It only logs that the metadata service does not
// answer, because the calls that need it fail anyway. After a change of the
// configuration it checks at once, and corrects the security groups of the ENIs.
func (n *node) audit(ctx context.Context, st *started) error {
	manager, a, regroup := st.manager, st.agent, false
	if n.finishOperations(ctx, manager, slog.LevelWarn) {
		a.Refresh()
	}
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	vpc := vpcAudit{node: n, manager: manager}
	var again <-chan time.Time // nil if nothing is to be tried again
	for {
		if !regroup && manager.Inventory().EC2Err == nil {
			again = nil
		} else if again == nil {
			again = time.After(retryEC2Every)
		}
		select {
		case <-tick.C:
		case <-st.look:
		case <-st.observed:
			continue
		case <-again:
			again = nil
			// Addresses that only the metadata service shows are doubtful, and are not
			// given to pods.
			if manager.Inventory().EC2Err != nil {
				a.Refresh()
			}
			regroup = regroup && !n.regroup(ctx, manager)
			continue
		case <-st.regroup:
			regroup = !n.regroup(ctx, manager)
			continue
		case <-ctx.Done():
			return nil
		}
		if err := n.tombstones(ctx, n.release); err != nil {
			n.log.Error("collect tombstones", "err", err)
		}
		vpc.update(ctx)
		due, err := manager.Check(ctx)
		if err != nil {
			n.log.Debug("audit", "err", err)
		}
		if due {
			n.log.Info("the metadata service shows other ENIs or addresses than are known")
		}
		if n.finishOperations(ctx, manager, slog.LevelDebug) || due {
			a.Refresh()
		}
	}
}

// regroup corrects the security groups of the ENIs and reports whether it could.
func (n *node) regroup(ctx context.Context, manager *eni.Manager) bool {
	bounded, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	changes, err := manager.Reconcile(bounded)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		n.log.Warn("the security groups of ENIs cannot be changed yet", "err", n.advise(err))
	case changes > 0:
		n.log.Info("ENIs have the security groups of the configuration", "changes", changes)
	}
	return err == nil
}

// sweepsAfter are the times after its start at which the agent searches for ENIs that
// an earlier process has created and that are not in the journal: soon, and once more
// when EC2 has certainly carried out the calls of a process that was killed.
var sweepsAfter = []time.Duration{20 * time.Second, 15 * time.Minute}

const (
	// sweepMinAge is the minimum age of an ENI that a sweep deletes. ENIs that an
	// earlier process has created are older at the first sweep, and an ENI that this
	// process creates between the check of its journal and the search is younger.
	sweepMinAge = 10 * time.Second
	// sweepRetry is the pause before another attempt while ENIs are being created. After
	// an error the pause begins with auditEvery and doubles up to maxSweepRetry.
	sweepRetry    = 2 * time.Second
	maxSweepRetry = 15 * time.Minute
)

// sweep deletes ENIs that an earlier process of this instance has created and lost,
// and completes ENIs that are only partly set up. If there are none, it makes one call
// to EC2 each time. An ENI that is being created is not attached either. Therefore
// sweep waits while the journal has an unfinished creation.
func (n *node) sweep(ctx context.Context, client *eni.Client, manager *eni.Manager) error {
	began := time.Now()
	for _, after := range sweepsAfter {
		pause, retry := after-time.Since(began), auditEvery
		for pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			if manager.Inventory().Instance.VPCID == "" || creating(ctx, manager) {
				pause = sweepRetry
				continue
			}
			pause = 0
			if err := n.sweepOnce(ctx, client, manager); err != nil && ctx.Err() == nil {
				n.log.Warn("ENIs of earlier processes cannot be swept yet", "err", err, "retry", retry.String())
				pause, retry = retry, min(2*retry, maxSweepRetry)
			}
		}
	}
	return nil
}

func (n *node) sweepOnce(ctx context.Context, client *eni.Client, manager *eni.Manager) error {
	inv := manager.Inventory()
	swept, err := eni.Sweep(ctx, client, eni.SweepInput{VPCID: inv.Instance.VPCID, Cluster: n.cfg.Cluster, Instance: inv.Instance.ID, MinAge: sweepMinAge})
	for _, s := range swept {
		if s.Deleted {
			n.log.Info("deleted an ENI that an earlier process had left behind", "eni", s.ENI.ID)
		}
	}
	if err == nil && inv.EC2Err == nil {
		_, err = manager.Reconcile(ctx)
	}
	return err
}

// creating reports whether the journal has an unfinished creation of an ENI.
func creating(ctx context.Context, manager *eni.Manager) bool {
	all, err := manager.Unfinished(ctx)
	return err != nil || slices.ContainsFunc(all, func(it eni.Intent) bool {
		return it.Op == eni.OpProvision || it.Op == eni.OpBranch
	})
}

// finishOperations resumes unfinished operations, and reports whether any of them
// ended. If there are none, it makes no call. It logs operations that stay unfinished
// at the given level.
func (n *node) finishOperations(ctx context.Context, manager *eni.Manager, level slog.Level) bool {
	before, err := manager.Unfinished(ctx)
	if err != nil || len(before) == 0 {
		return false
	}
	bounded, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	if err := manager.Resume(bounded); err != nil {
		n.log.Log(ctx, level, "operations of an earlier process are not finished yet", "err", err)
	}
	after, err := manager.Unfinished(ctx)
	if err != nil {
		return false
	}
	open := stillOpen(before, after)
	if open == len(before) {
		return false
	}
	n.log.Info("unfinished operations ended", "ended", len(before)-open, "open", open)
	return true
}

// stillOpen returns how many operations of before are in after too. The agent begins
// others meanwhile.
func stillOpen(before, after []eni.Intent) (open int) {
	for _, b := range before {
		if slices.ContainsFunc(after, func(a eni.Intent) bool { return a.ID == b.ID }) {
			open++
		}
	}
	return open
}

// prepare creates the ENI manager and finds the limits of the instance. It leaves
// unfinished operations of an earlier process to audit, because serving pods is more
// urgent.
func (n *node) prepare(ctx context.Context) (*started, error) {
	client, region, err := connect(ctx, n.cfg, n.known.Region, n.observeCall)
	if err != nil {
		return nil, err
	}
	n.recorder.setRegion(region)
	manager, err := eni.New(eni.Config{
		Client: client, Intents: n.intents, Cluster: n.cfg.Cluster, Tags: n.cfg.ENITags,
		Subnets: n.cfg.Subnets, Groups: n.cfg.Groups, MaxENIs: n.cfg.MaxENIs, InUse: n.own.inUse(InUse(n.pool, n.links.Witness)),
		BranchCooldown: n.cfg.BranchCooldown, Known: n.known.Inventory,
	})
	if err != nil {
		return nil, err
	}
	// Reading the journal removes ENIs and addresses that are being deleted from the
	// inventory.
	if _, err := manager.Unfinished(ctx); err != nil {
		return nil, err
	}
	limits, err := manager.Limits(ctx)
	return &started{
		pool: n.pool, client: client, manager: manager, limits: limits,
		regroup: make(chan struct{}, 1), look: make(chan struct{}, 1), observed: make(chan struct{}, 1),
	}, err
}

// newAgent creates the agent of st.
func (n *node) newAgent(st *started) (err error) {
	manager, limits := st.manager, st.limits
	changed := func(inv eni.Inventory) {
		n.record(inv)
		signal(st.observed)
	}
	p := &Provider{
		Manager: manager, Pool: n.pool, Links: n.links, Prefixes: n.cfg.prefixes(limits), PodENI: n.own.trunks(),
		MTU: n.cfg.ENIMTU, NoPrimary: n.cfg.NoPrimaryPods, Changed: changed, own: n.own,
	}
	enis, err := p.Register(manager.Inventory(), false)
	if err != nil {
		return err
	}
	st.cards = n.cfg.cards(limits, manager.Inventory())
	st.agent, err = agent.New(agent.Config{
		Pool:       n.pool,
		Provider:   p,
		Links:      n.links,
		Policy:     n.cfg.Policy,
		Limits:     n.cfg.limits(limits, st.cards),
		Families:   n.cfg.Families,
		Demand:     n.cfg.Demand,
		DemandCard: st.cards[0],
		Kernel:     n.links,
		Known:      enis,
		Tombstones: func(ctx context.Context, _ func(ipam.Attachment) error) error { return n.tombstones(ctx, n.release) },
		Notify:     n.recordEvent,
		Released:   n.backend.reclaimed,
		Logger:     n.log,
	})
	if err != nil {
		return err
	}
	n.log.Info("instance known", "type", limits.Type, "limits", limits.Source, "enis", limits.Cards, "slots", limits.SlotsPerENI(), "earlier", len(enis))
	n.own.serve(manager, limits)
	n.backend.Serve(st.agent, st.cards...)
	return nil
}

// tombstones calls release for the attachment of each tombstone, and deletes the
// tombstone if release returns nil.
func (n *node) tombstones(ctx context.Context, release func(ipam.Attachment) error) error {
	_, err := server.CollectTombstones(ctx, cniplugin.TombstoneDir(n.cfg.StateDir), func(_ context.Context, t cniplugin.Tombstone) error {
		return release(ipam.Attachment(t.Attachment))
	})
	return err
}

// whenReady waits until the first address can be given to a pod, closes ready, writes the CNI
// configuration, and then repairs changes to the node's network until ctx ends.
func (n *node) whenReady(ctx context.Context, st *started, ready chan<- struct{}) error {
	select {
	case <-st.agent.Ready():
	case <-ctx.Done():
		return nil
	}
	close(ready)
	if err := n.announce(ctx, primaryAddrs(st.manager.Inventory())); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.links.Watch(ctx, n.cfg.Hooks.Repaired, n.log) })
	g.Go(func() error { return n.links.WatchTranslation(ctx, n.cfg.Hooks.Translated, n.log) })
	g.Go(func() error { return n.own.run(ctx) })
	return g.Wait()
}

// primaryAddrs returns the addresses of the primary ENI.
func primaryAddrs(inv eni.Inventory) (all []netip.Prefix) {
	for _, e := range inv.ENIs {
		for _, a := range []netip.Addr{e.Addr, e.Addr6} {
			if e.Primary && a.IsValid() {
				all = append(all, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return all
}
