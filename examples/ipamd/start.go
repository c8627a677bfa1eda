// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
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
func start(ctx context.Context, s settings, b *backend, l *links, known nodeRecord, log *slog.Logger) (*started, error) {
	b.log = log
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		st, limits, err := prepare(ctx, s, b, l, known)
		if err == nil {
			st.agent, err = newAgent(s, b, l, st.manager, limits, log)
			return st, err
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		err = advise(err, routeToEC2(s, b.recorder.knownRegion(), http.ProxyFromEnvironment))
		b.problem.Store(&err)
		log.Error("agent cannot start yet", "err", err, "reason", reasonOf(err), "retry", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// started has the parts that exist once the instance is known.
type started struct {
	agent   *agent.Agent
	client  *eni.Client
	manager *eni.Manager
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
// answer, because the calls that need it fail anyway.
func audit(ctx context.Context, b *backend, l *links, manager *eni.Manager, a *agent.Agent, log *slog.Logger) error {
	if finishOperations(ctx, manager, log, slog.LevelWarn) {
		a.Refresh()
	}
	tick, retry := time.NewTicker(auditEvery), time.NewTicker(retryEC2Every)
	defer tick.Stop()
	defer retry.Stop()
	vpc := vpcAudit{backend: b, links: l, prefixes: manager.VPCPrefixes, log: log}
	for {
		select {
		case <-tick.C:
		case <-retry.C:
			// Addresses that only the metadata service shows are doubtful, and are not
			// given to pods.
			if manager.Inventory().EC2Err != nil {
				a.Refresh()
			}
			continue
		case <-ctx.Done():
			return nil
		}
		release := func(at ipam.Attachment) error {
			_, err := b.Del(ctx, cniplugin.DelRequest{Attachment: cniplugin.Attachment(at)})
			return err
		}
		if err := tombstones(cniplugin.TombstoneDir(b.settings.StateDir))(ctx, release); err != nil {
			log.Error("collect tombstones", "err", err)
		}
		vpc.update(ctx)
		due, err := manager.Check(ctx)
		if err != nil {
			log.Debug("audit", "err", err)
		}
		if due {
			log.Info("the metadata service shows other ENIs or addresses than are known")
		}
		if finishOperations(ctx, manager, log, slog.LevelDebug) || due {
			a.Refresh()
		}
	}
}

// sweepAfter is how long after its start the agent searches for ENIs that an earlier
// process has created and that are not in the journal. By then their age shows that
// no process is about to attach them.
const sweepAfter = 15 * time.Minute

// sweepOnce deletes ENIs that an earlier process of this instance has created and
// lost, and completes ENIs that are only partly set up. If there are none, it makes
// one call to EC2.
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
			log.Info("deleted an ENI that an earlier process had left behind", "eni", s.ENI.ID)
		}
	}
	if err == nil && inv.EC2Err == nil {
		_, err = manager.Reconcile(ctx)
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("ENIs of earlier processes cannot be swept yet", "err", err)
	}
	return nil
}

// finishOperations resumes unfinished operations, and reports whether any of them
// ended. If there are none, it makes no call. It logs operations that stay unfinished
// at the given level.
func finishOperations(ctx context.Context, manager *eni.Manager, log *slog.Logger, level slog.Level) bool {
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
	log.Info("unfinished operations ended", "ended", len(before)-len(after), "open", len(after))
	return true
}

// prepare creates the ENI manager and finds the limits of the instance. It leaves
// unfinished operations of an earlier process to audit, because serving pods is more
// urgent.
func prepare(ctx context.Context, s settings, b *backend, l *links, known nodeRecord) (*started, instancetype.Limits, error) {
	client, region, err := connect(ctx, s, known.Region, b.observeCall)
	if err != nil {
		return nil, instancetype.Limits{}, err
	}
	b.recorder.setRegion(region)
	manager, err := eni.New(eni.Config{
		Client: client, Intents: b.intents, Cluster: s.ClusterName, Tags: s.ENITags,
		MaxENIs: max(s.MaxENI, 0), InUse: inUse(b.pool, l.witness), Known: known.Inventory,
	})
	if err != nil {
		return nil, instancetype.Limits{}, err
	}
	// Reading the journal removes ENIs and addresses that are being deleted from the
	// inventory.
	if _, err := manager.Unfinished(ctx); err != nil {
		return nil, instancetype.Limits{}, err
	}
	limits, err := manager.Limits(ctx)
	return &started{client: client, manager: manager}, limits, err
}

func newAgent(s settings, b *backend, l *links, manager *eni.Manager, limits instancetype.Limits, log *slog.Logger) (*agent.Agent, error) {
	policy, err := s.policy()
	if err != nil {
		return nil, err
	}
	p := &provider{manager: manager, pool: b.pool, links: l, prefixes: s.prefixes(limits), mtu: s.ENIMTU, recorder: &b.recorder}
	enis, err := p.register(manager.Inventory(), false)
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
		Tombstones: b.tombstones,
		Notify:     b.recordEvent,
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	log.Info("instance known", "type", limits.Type, "limits", limits.Source, "enis", limits.Cards, "slots", limits.SlotsPerENI(), "earlier", len(enis))
	b.serve(a)
	return a, nil
}

// policy returns the warm pool policy of the settings.
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

// prefixes reports whether slots hold prefixes: the settings ask for them and the
// instance type supports them.
func (s *settings) prefixes(l instancetype.Limits) bool { return s.Prefixes && l.Nitro }

// limits returns the limits of each network card. Only the card with the primary
// ENI serves pods; the limits of the others stay zero.
func (s *settings) limits(l instancetype.Limits) []warmpool.Limits {
	cards := make([]warmpool.Limits, l.DefaultCard+1)
	enis := l.MaxENIs(l.DefaultCard)
	if s.MaxENI > 0 {
		enis = min(enis, s.MaxENI)
	}
	perSlot := 1
	if s.prefixes(l) {
		perSlot = instancetype.PrefixSize
	}
	cards[l.DefaultCard] = warmpool.Limits{
		MaxENIs: enis, SlotsPerENI: l.SlotsPerENI(), AddressesPerSlot: perSlot, MaxPods: s.MaxPods,
	}
	return cards
}

// tombstones returns the function by which the agent collects the tombstones in dir.
func tombstones(dir string) func(context.Context, func(ipam.Attachment) error) error {
	return func(ctx context.Context, release func(ipam.Attachment) error) error {
		_, err := server.CollectTombstones(ctx, dir, func(_ context.Context, t cniplugin.Tombstone) error {
			return release(ipam.Attachment(t.Attachment))
		})
		return err
	}
}

// tombstones calls release for the attachment of each tombstone, also for those without a
// network.
func (b *backend) tombstones(ctx context.Context, release func(ipam.Attachment) error) error {
	return tombstones(cniplugin.TombstoneDir(b.settings.StateDir))(ctx, func(a ipam.Attachment) error {
		return release(b.find(cniplugin.Attachment(a)))
	})
}

// readyEvery is how often whenReady checks the agent. The kubelet checks for the CNI
// configuration every 5 seconds.
const readyEvery = 50 * time.Millisecond

// whenReady waits until the first address can be given to a pod, writes the CNI
// configuration, and then repairs changes to the node's network until ctx ends.
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
		return fmt.Errorf("create the directory of -conflist: %w", err)
	}
	changed, err := server.WriteConflist(s.Conflist, cniplugin.Conflist{Conf: cniplugin.NetConf{
		PluginConf:  types.PluginConf{Capabilities: map[string]bool{"ips": true, "mac": true}},
		AgentSocket: s.Socket, StateDir: s.StateDir, VethPrefix: s.VethPrefix,
	}})
	if err != nil {
		return fmt.Errorf("write -conflist: %w", err)
	}
	log.Info("node is ready for pods", "conflist", s.Conflist, "changed", changed)
	return nil
}
