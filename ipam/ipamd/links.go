// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
)

// LinksConfig configures [Links].
type LinksConfig struct {
	// Netns is the path of the node's network namespace. Empty means that of the
	// process.
	Netns string
	// Node is the desired network of the node without its ENIs.
	Node datapath.Node
	// SNAT is the source translation without PrimaryLink, NodeAddrs, VPC and Returns.
	SNAT snat.Config
	// SNATBackend has the rules of the translation. Empty means [AutoBackend].
	SNATBackend snat.Backend
	// Pods returns the pods, as Backend.Pods does.
	Pods func() []datapath.Pod
}

// Links is an [agent.Links] and an [agent.Kernel] over package datapath and snat. It
// stores all ENIs, because the desired state of the kernel depends on all of them. It is
// safe for concurrent use.
type Links struct {
	path       *datapath.Handle
	netns      string
	node       datapath.Node // without ENIs
	snatConfig snat.Config   // without the values that depend on ENIs and the VPC
	pods       func() []datapath.Pod
	// limited reports whether packets of the pod with an address must all pass the forward
	// hook.
	limited func(netip.Addr) bool

	mu   sync.Mutex
	snat translator
	enis map[string]datapath.ENI
	vpc  []netip.Prefix
	// asked counts the calls of Ensure. ensured has, for each ENI, the number of the
	// latest call that came before the node's network was observed and found right.
	asked   uint64
	ensured map[string]uint64
	// called has a value when Ensure was called.
	called chan struct{}
	// confirmed means that EC2 has confirmed the ENIs.
	confirmed bool
	// inUse are addresses that are in use, but not by a pod of the pool.
	inUse []netip.Addr
	// turn holds one token. Its holder may change or observe the kernel, and use the
	// fields below.
	turn chan struct{}
	// converted means that all pods have the node's layout. Pods of an earlier agent
	// may have another one.
	converted bool
	// audited are the uses of the latest audit before converted is set, at auditedAt. The
	// first Ensure follows it at once and needs not look again.
	audited   []datapath.Use
	auditedAt time.Time
	// applied is the node that was last applied to the kernel.
	applied datapath.Node
	// fallback means that the backend may change: a kernel without nftables is only known
	// when rules are applied.
	fallback bool
	// translation is the desired source translation, if hasTranslation is true.
	translation    snat.Config
	hasTranslation bool
	// waited is the latest error of a change of the translation that waited for the whole
	// bound, and waitedAt when it was returned.
	waited   error
	waitedAt time.Time
	// retired signals that plugins have left links to be deleted.
	retired chan struct{}
}

var (
	_ agent.Links  = (*Links)(nil)
	_ agent.Kernel = (*Links)(nil)
)

// OpenLinks opens a network namespace. It changes nothing in it. With the backend
// snat.Iptables on a system without iptables the error is iptables.ErrNoProgram.
func OpenLinks(ctx context.Context, cfg LinksConfig) (*Links, error) {
	path, err := datapath.Open(cfg.Netns)
	if err != nil {
		return nil, err
	}
	out, err := openTranslator(ctx, cfg.Netns, cfg.SNATBackend)
	if err != nil {
		return nil, errors.Join(err, path.Close())
	}
	l := newLinks(cfg)
	l.path, l.snat = path, out
	return l, nil
}

func newLinks(cfg LinksConfig) *Links {
	l := &Links{
		netns: cfg.Netns, fallback: cfg.SNATBackend == "" || cfg.SNATBackend == AutoBackend,
		node: cfg.Node, snatConfig: cfg.SNAT, pods: cfg.Pods,
		enis: map[string]datapath.ENI{}, ensured: map[string]uint64{}, called: make(chan struct{}, 1), turn: make(chan struct{}, 1), retired: make(chan struct{}, 1),
	}
	if l.pods == nil {
		l.pods = func() []datapath.Pod { return nil }
	}
	l.limited = func(netip.Addr) bool { return false }
	return l
}

// Close closes the namespace. It leaves everything in the kernel as it is.
func (l *Links) Close() error { return errors.Join(l.path.Close(), l.translator().Close()) }

// snatBackend returns the backend of the source translation that is in use: nftables,
// iptables-nft or iptables-legacy.
func (l *Links) snatBackend() string { return l.translator().name() }

func (l *Links) translator() translator {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snat
}

// register stores an observation: new ENIs, and the prefixes of the VPC if there
// are none yet. The primary ENI belongs to the node's network also without pods. Known ENIs change only by Ensure, and known prefixes only by
// SetVPC. confirmed means that the observation comes from EC2.
func (l *Links) register(vpc []netip.Prefix, enis []agent.ENI, confirmed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.confirmed = l.confirmed || confirmed
	if len(l.vpc) == 0 {
		l.vpc = slices.SortedFunc(slices.Values(vpc), netip.Prefix.Compare)
	}
	for _, e := range enis {
		if _, known := l.enis[e.ID]; !known && (!e.NoPods || e.Primary) {
			l.enis[e.ID] = convertLink(e)
		}
	}
}

// Ensure brings the node's network and the source translation to the state that
// follows from e and all other ENIs. Calls for several ENIs that wait for their turn are
// served together. While other programs hold the xtables lock, a call fails after the bound
// of one change of iptables, whatever it has waited for: its own change, one before it, or both.
func (l *Links) Ensure(ctx context.Context, e agent.ENI) error {
	began := time.Now()
	l.mu.Lock()
	l.enis[e.ID] = convertLink(e)
	l.asked++
	call := l.asked
	l.mu.Unlock()
	signal(l.called)
	return l.inTurn(ctx, func() error {
		l.gather(ctx)
		l.mu.Lock()
		served, calls := l.ensured[e.ID] >= call, l.asked
		l.mu.Unlock()
		if served {
			return nil
		}
		if err := l.ensure(ctx, e.ID); err != nil {
			return err
		}
		if l.waitedAt.After(began) {
			return l.waited
		}
		if err := l.noteWaited(l.translate(ctx, began)); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, x := range l.applied.ENIs {
			l.ensured[x.ID] = calls
		}
		return nil
	})
}

// gatherTime bounds how long the first call of Ensure waits for the others.
const gatherTime = 5 * time.Millisecond

// gather waits, before the first change of the node's network, until Ensure was called for as
// many ENIs as are known. The agent calls it for all of them at the same time, and the first
// change is that of all pods too: with one ENI less, another look at all of it would follow.
func (l *Links) gather(ctx context.Context) {
	if l.converted {
		return
	}
	late := time.NewTimer(gatherTime)
	defer late.Stop()
	for {
		l.mu.Lock()
		all := l.asked >= uint64(len(l.enis))
		l.mu.Unlock()
		if all {
			return
		}
		select {
		case <-l.called:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ensure brings the node's network to the state that follows from all ENIs. If links
// of ENIs do not exist, it leaves these ENIs out, except the ENI id.
func (l *Links) ensure(ctx context.Context, id string) error {
	err := l.ensureNode(ctx, l.snapshot(nil))
	if errors.Is(err, datapath.ErrNoLink) {
		err = l.ensureAttached(ctx, id)
	}
	return err
}

// auditedTime is how long the uses of an audit serve the first Ensure.
const auditedTime = 200 * time.Millisecond

// ensureNode applies the node's part of the network, and the first time also that
// of the pods.
func (l *Links) ensureNode(ctx context.Context, n datapath.Node) error {
	if l.converted {
		l.applied = n
		return l.path.EnsureNode(ctx, n)
	}
	uses := l.audited
	if time.Since(l.auditedAt) > auditedTime {
		var err error
		if uses, err = l.path.InUse(ctx, allAddresses); err != nil {
			return err
		}
	}
	pods := l.pods()
	if err := l.witnessPods(n, pods, uses); err != nil {
		return err
	}
	n.InUse = unknown(n, pods, uses)
	l.setInUse(slices.Clone(n.InUse))
	l.applied = n
	l.audited, l.auditedAt = nil, time.Time{}
	err := l.path.Ensure(ctx, datapath.Desired{Node: n, Pods: pods})
	l.converted = err == nil
	return err
}

// ensureAttached is ensureNode without the ENIs that have no link: their state in the
// kernel ended with the link. It keeps the ENI id and the primary ENI.
func (l *Links) ensureAttached(ctx context.Context, id string) error {
	links, err := l.path.Links(ctx)
	if err != nil {
		return err
	}
	exists := map[string]bool{}
	for _, link := range links {
		exists[link.MAC] = true
	}
	return l.ensureNode(ctx, l.snapshot(func(e datapath.ENI) bool {
		return e.ID == id || e.Primary() || exists[e.MAC.String()]
	}))
}

// noteWaited stores the error of a change of the translation, and returns it.
func (l *Links) noteWaited(err error) error {
	var waited waitedError
	if errors.As(err, &waited) {
		l.waited, l.waitedAt = err, time.Now()
	}
	return err
}

// translate applies the source translation for a caller that has waited since then.
func (l *Links) translate(ctx context.Context, since time.Time) error {
	cfg := l.snatConfig
	l.mu.Lock()
	cfg.VPC = slices.Clone(l.vpc)
	enis := slices.Collect(maps.Values(l.enis))
	l.mu.Unlock()
	links, err := l.path.Links(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, kind := range []string{"veth", ""} { // hardware links override veth links
		for _, link := range links {
			if link.Kind == kind {
				names[link.MAC] = link.Name
			}
		}
	}
	for _, e := range enis {
		switch link := names[e.MAC.String()]; {
		case e.Primary():
			cfg.PrimaryLink = link
			for _, a := range e.Addrs {
				cfg.NodeAddrs = append(cfg.NodeAddrs, a.Addr())
			}
		case link != "" && cfg.NodePort:
			cfg.Returns = append(cfg.Returns, snat.Return{Link: link, Mark: uint32(datapath.Number(e.Card, e.Device))})
		}
	}
	if _, err := cfg.Ruleset(); err != nil {
		return fmt.Errorf("source translation: %w", err)
	}
	l.translation, l.hasTranslation = cfg, true
	if err := l.applyTranslation(ctx, cfg, since); err != nil {
		return fmt.Errorf("source translation: %w", err)
	}
	l.fallback = false
	return nil
}

// applyTranslation puts the rules into the backend, or into iptables if it lacks what they
// need and may change.
func (l *Links) applyTranslation(ctx context.Context, cfg snat.Config, since time.Time) error {
	lacking := l.translator().apply(ctx, cfg, since)
	if !l.fallback || !errors.Is(lacking, errors.ErrUnsupported) {
		return lacking
	}
	other, err := openTranslator(ctx, l.netns, snat.Iptables)
	if err != nil {
		return errors.Join(lacking, err)
	}
	if err := other.apply(ctx, cfg, since); err != nil {
		return errors.Join(lacking, err, other.Close())
	}
	l.mu.Lock()
	nftables := l.snat
	l.snat = other
	l.mu.Unlock()
	return nftables.Close()
}

// pollEvery is how often the agent looks for what it waits for.
const pollEvery = 5 * time.Millisecond

// awaitLink waits until the node has a link with the MAC.
func (l *Links) awaitLink(ctx context.Context, mac net.HardwareAddr) error {
	for {
		links, err := l.path.Links(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(links, func(k netstate.Link) bool { return k.MAC == mac.String() }) {
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return errors.Join(datapath.ErrNoLink, ctx.Err())
		}
	}
}

// SetVPC replaces the prefixes of the VPC and applies the source translation. Until
// the first ENI is set up, it only stores the prefixes. After an error [Links.VPC] returns
// those before.
func (l *Links) SetVPC(ctx context.Context, vpc []netip.Prefix) error {
	return l.inTurn(ctx, func() error {
		before := l.VPC()
		l.storeVPC(vpc)
		if !l.hasTranslation {
			return nil
		}
		err := l.translate(ctx, time.Now())
		if err != nil {
			l.storeVPC(before)
		}
		return err
	})
}

func (l *Links) storeVPC(vpc []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.vpc = slices.Clone(vpc)
}

// VPC returns the prefixes of the VPC that the translation uses.
func (l *Links) VPC() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.vpc)
}

// Remove removes an ENI from the node's network.
func (l *Links) Remove(ctx context.Context, id string) error {
	return l.inTurn(ctx, func() error {
		before := l.snapshot(nil)
		l.mu.Lock()
		e, known := l.enis[id]
		delete(l.enis, id) // first, so that Watch does not put it back
		delete(l.ensured, id)
		l.mu.Unlock()
		err := l.path.RemoveENI(ctx, before, id)
		if err != nil && known {
			l.mu.Lock()
			l.enis[id] = e
			l.mu.Unlock()
		}
		l.applied = l.snapshot(nil)
		return err
	})
}

// Watch repairs changes that other programs make to the network of the node and its
// pods, until ctx ends. It must start when all ENIs are known, because it removes
// state that belongs to no ENI. It leaves a pod to the plugin while that wires it, and
// does not observe the kernel while this process changes it.
func (l *Links) Watch(ctx context.Context, repaired func(datapath.Repair), log *slog.Logger) error {
	err := l.path.Watch(ctx, datapath.WatchConfig{
		Desired:   func() datapath.Desired { return l.desired(l.applied) },
		Repaired:  repaired,
		Logger:    log,
		Exclusive: l.inTurn,
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// WatchTranslation repairs changes to the source translation, until ctx ends.
func (l *Links) WatchTranslation(ctx context.Context, repaired func(snat.Repair), log *slog.Logger) error {
	err := l.translator().watch(ctx, watchConfig{
		desired:  func() (snat.Config, bool) { return l.translation, l.hasTranslation },
		repaired: repaired, log: log,
		exclusive: func(ctx context.Context, check func() error) error {
			return l.inTurn(ctx, func() error { return l.noteWaited(markWaited(ctx, check())) })
		},
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// SweepSoon signals Sweep that there are links to delete.
func (l *Links) SweepSoon() {
	signal(l.retired)
}

// sweepDelay is how long Sweep waits for more links. The kernel needs tens of
// milliseconds to delete a link, but no longer for several links at once. A link is gone
// 100 ms after its DEL, also if that came when a sweep had just begun.
const sweepDelay = 15 * time.Millisecond

// sweepFirst is when Sweep first looks for the links that were left while no agent was
// running. A look at all links would delay the start, and these links harm no pod.
const sweepFirst = time.Second

// Sweep deletes the links that plugins leave behind, until ctx ends: soon after each DEL,
// and with each audit, which finds the links of plugins that were killed.
func (l *Links) Sweep(ctx context.Context, log *slog.Logger) error {
	next := time.NewTimer(sweepFirst)
	defer next.Stop()
	for {
		select {
		case <-l.retired:
		case <-next.C:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(sweepDelay):
		case <-ctx.Done():
			return nil
		}
		if err := l.path.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Warn("links of deleted pods cannot be removed yet", "err", err)
		}
		next.Reset(auditEvery)
	}
}

// Node returns the desired network of the node with all ENIs.
func (l *Links) Node() datapath.Node { return l.snapshot(nil) }

// snapshot returns the node with the ENIs that include accepts. If include is nil,
// it has all ENIs.
func (l *Links) snapshot(include func(datapath.ENI) bool) datapath.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.node
	n.InUse = slices.Clone(l.inUse)
	for _, id := range slices.Sorted(maps.Keys(l.enis)) {
		if e := l.enis[id]; include == nil || include(e) {
			n.ENIs = append(n.ENIs, e)
		}
	}
	return n
}

// inTurn waits for the turn and calls do.
func (l *Links) inTurn(ctx context.Context, do func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	return do()
}

func convertLink(e agent.ENI) datapath.ENI {
	return datapath.ENI{
		ID: e.ID, MAC: e.MAC, Card: e.Card, Device: e.Device, Addrs: e.Addrs,
		Gateways: e.Gateways, Sources: e.Blocks, MTU: e.MTU,
	}
}
