// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// The pause between two attempts to start doubles from the first to the second.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// start makes the agent: at once with what an earlier process of the boot knew,
// else as soon as EC2 or the metadata service says what the instance is, and
// tries for as long as that takes. It returns nil if ctx ends first.
func start(ctx context.Context, s settings, b *backend, l *links, known knowledge, log *slog.Logger) (*started, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		st, limits, err := prepare(ctx, s, b, l, known)
		if err == nil {
			st.agent, err = newAgent(s, b, l, st.manager, limits, log)
			return st, err
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		err = advise(err, s)
		b.trouble.Store(&err)
		log.Error("agent cannot start yet", "err", err, "reason", reasonOf(err), "retry", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// started is what runs once the instance is known.
type started struct {
	agent   *agent.Agent
	client  *eni.Client
	manager *eni.Manager
}

const (
	// auditEvery is how often the agent checks for left-over operations, tombstones
	// and changes that the metadata service shows.
	auditEvery = 30 * time.Second
	// lookAgain is how soon the agent looks again after a look without EC2.
	lookAgain = 5 * time.Second
	// finishTime bounds a try to finish operations, which must not hold up the audit.
	finishTime = 15 * time.Second
)

// audit has the agent look again when the metadata service shows what the
// manager does not know, which costs no EC2 call, and when an operation could be
// finished that EC2 had left half-way. That the service cannot be reached is no
// news here: the calls that need it will fail. It also releases what plugins
// could not while the agent was too busy for them, and follows the VPC's prefixes.
func audit(ctx context.Context, b *backend, l *links, manager *eni.Manager, a *agent.Agent, log *slog.Logger) error {
	if finish(ctx, manager, log, slog.LevelWarn) {
		a.Refresh()
	}
	tick, again := time.NewTicker(auditEvery), time.NewTicker(lookAgain)
	defer tick.Stop()
	defer again.Stop()
	vpc := vpcAudit{backend: b, links: l, prefixes: manager.VPCPrefixes, log: log}
	for {
		select {
		case <-tick.C:
		case <-again.C:
			// What only the metadata service shows is in doubt and serves no pod.
			if manager.Inventory().EC2Err != nil {
				a.Refresh()
			}
			continue
		case <-ctx.Done():
			return nil
		}
		release := func(at ipam.Attachment) error {
			return b.Del(ctx, cniplugin.DelRequest{Attachment: cniplugin.Attachment(at)})
		}
		if err := tombstones(cniplugin.TombstoneDir(b.settings.StateDir))(ctx, release); err != nil {
			log.Error("collect tombstones", "err", err)
		}
		vpc.look(ctx)
		due, err := manager.Check(ctx)
		if err != nil {
			log.Debug("audit", "err", err)
		}
		if due {
			log.Info("the metadata service shows other ENIs or addresses than are known")
		}
		if finish(ctx, manager, log, slog.LevelDebug) || due {
			a.Refresh()
		}
	}
}

// sweepAfter is how long after its start the agent looks for ENIs that a process
// before it has left without a trace in its journal: by then their age shows that
// no process is about to attach them.
const sweepAfter = 15 * time.Minute

// sweepOnce deletes what an earlier process of this instance has made and lost, and
// completes what it has left half made. Without anything of the kind it costs one
// call to EC2 for a start of the agent.
func sweepOnce(ctx context.Context, client *eni.Client, manager *eni.Manager, cluster string, log *slog.Logger) error {
	select {
	case <-time.After(sweepAfter):
	case <-ctx.Done():
		return nil
	}
	inv := manager.Inventory()
	swept, err := eni.Sweep(ctx, client, eni.SweepInput{VPCID: inv.Instance.VPCID, Cluster: cluster, Instance: inv.Instance.ID})
	for _, s := range swept {
		if s.Deleted {
			log.Info("ENI swept: an earlier process had left it", "eni", s.ENI.ID)
		}
	}
	if err == nil && inv.EC2Err == nil {
		_, err = manager.Reconcile(ctx)
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("ENIs of earlier processes stay for now", "err", err)
	}
	return nil
}

// finish goes on with the operations that were left open, and reports whether
// any of them ended. Without one it makes no call. That some stay open is logged
// at the given level.
func finish(ctx context.Context, manager *eni.Manager, log *slog.Logger, level slog.Level) bool {
	before, err := manager.Unfinished(ctx)
	if err != nil || len(before) == 0 {
		return false
	}
	bounded, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	if err := manager.Resume(bounded); err != nil {
		log.Log(ctx, level, "operations of an earlier process are not finished yet", "err", err)
	}
	after, err := manager.Unfinished(ctx)
	if err != nil || len(after) >= len(before) {
		return false
	}
	log.Info("operations finished that were open", "ended", len(before)-len(after), "open", len(after))
	return true
}

// prepare finds out what the instance can carry. What an earlier process left
// open is finished later: pods that run need the agent more than a half-made ENI
// needs its end.
func prepare(ctx context.Context, s settings, b *backend, l *links, known knowledge) (*started, eni.Limits, error) {
	client, region, err := connect(ctx, s, known.Region, b.heard)
	if err != nil {
		return nil, eni.Limits{}, err
	}
	b.memory.setRegion(region)
	manager, err := eni.New(eni.Config{
		Client: client, Intents: b.intents, Cluster: s.ClusterName, Tags: s.ENITags,
		MaxENIs: max(s.MaxENI, 0), InUse: inUse(b.pool, l.witness), Known: known.Inventory,
	})
	if err != nil {
		return nil, eni.Limits{}, err
	}
	// With the journal read, the inventory is without what is on its way out.
	if _, err := manager.Unfinished(ctx); err != nil {
		return nil, eni.Limits{}, err
	}
	limits, err := manager.Limits(ctx)
	return &started{client: client, manager: manager}, limits, err
}

func newAgent(s settings, b *backend, l *links, manager *eni.Manager, limits eni.Limits, log *slog.Logger) (*agent.Agent, error) {
	policy, err := s.policy()
	if err != nil {
		return nil, err
	}
	p := &provider{manager: manager, pool: b.pool, links: l, prefixes: s.prefixes(limits), mtu: s.ENIMTU, memory: &b.memory}
	enis, err := p.know(manager.Inventory(), false)
	if err != nil {
		return nil, err
	}
	a, err := agent.New(agent.Config{
		Pool:       b.pool,
		Provider:   p,
		Links:      l,
		Policy:     policy,
		Limits:     s.limits(limits),
		Kernel:     l,
		Known:      enis,
		Tombstones: tombstones(cniplugin.TombstoneDir(s.StateDir)),
		Notify:     b.note,
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	log.Info("instance known", "type", limits.Type, "limits", limits.Source, "enis", limits.Cards, "slots", limits.SlotsPerENI(), "earlier", len(enis))
	b.serve(a)
	return a, nil
}

// policy is the chosen policy of the warm pool.
func (s *settings) policy() (warmpool.Policy, error) {
	if s.policyName() == policyAWS {
		return warmpool.AWS{
			WarmENITarget: s.WarmENITarget, WarmIPTarget: s.WarmIPTarget,
			MinimumIPTarget: s.MinimumIPTarget, WarmPrefixTarget: s.WarmPrefixTarget,
		}, nil
	}
	name, set, err := warmpool.ParsePolicy(s.policyName())
	if err != nil {
		return nil, err
	}
	return warmpool.PolicyByName(name, set)
}

// prefixes reports whether slots hold prefixes: where they are wanted and the
// instance type can have them.
func (s *settings) prefixes(l eni.Limits) bool { return s.Prefixes && l.Nitro }

// limits are those of the cards that pods get addresses from: the one with the
// primary ENI. The others stay empty.
func (s *settings) limits(l eni.Limits) []warmpool.Limits {
	cards := make([]warmpool.Limits, l.DefaultCard+1)
	enis := l.MaxENIs(l.DefaultCard)
	if s.MaxENI > 0 {
		enis = min(enis, s.MaxENI)
	}
	perSlot := 1
	if s.prefixes(l) {
		perSlot = eni.PrefixSize
	}
	cards[l.DefaultCard] = warmpool.Limits{
		MaxENIs: enis, SlotsPerENI: l.SlotsPerENI(), AddressesPerSlot: perSlot, MaxPods: s.MaxPods,
	}
	return cards
}

// tombstones is the agent's way to the plugin's records of pods that went while
// no agent answered.
func tombstones(dir string) func(context.Context, func(ipam.Attachment) error) error {
	return func(ctx context.Context, release func(ipam.Attachment) error) error {
		_, err := cniplugin.CollectTombstones(ctx, dir, func(_ context.Context, t cniplugin.Tombstone) error {
			return release(ipam.Attachment(t.Attachment))
		})
		return err
	}
}

// readyEvery is how often whenReady looks; the kubelet looks for the CNI
// configuration every 5 seconds.
const readyEvery = 50 * time.Millisecond

// whenReady waits until the first address can be given to a pod, writes the CNI
// configuration, and then keeps the node's network as it is.
func whenReady(ctx context.Context, b *backend, l *links, log *slog.Logger) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for !b.agent.Load().Status().Ready {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	if err := announce(b.settings, log); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.watch(ctx, b.metrics.repaired, log) })
	g.Go(func() error { return l.watchTranslation(ctx, b.metrics.translated, log) })
	return g.Wait()
}

// announce writes the CNI configuration.
func announce(s settings, log *slog.Logger) error {
	if s.Conflist == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.Conflist), 0o755); err != nil {
		return fmt.Errorf("make the directory of -conflist: %w", err)
	}
	changed, err := cniplugin.Conflist{Conf: cniplugin.NetConf{
		AgentSocket: s.Socket, StateDir: s.StateDir, VethPrefix: s.VethPrefix,
	}}.WriteFile(s.Conflist)
	if err != nil {
		return fmt.Errorf("write -conflist: %w", err)
	}
	log.Info("node is ready for pods", "conflist", s.Conflist, "changed", changed)
	return nil
}
