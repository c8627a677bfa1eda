// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
)

// links is an [agent.Links] over the kernel of this node. The kernel's state is
// a function of all ENIs together, so it remembers them.
type links struct {
	path *datapath.Handle
	snat *snat.Handle
	node datapath.Node // without ENIs
	out  snat.Config   // without what is learned of the node
	// pods lists the pods that have had their addresses for that long.
	pods func(time.Duration) []datapath.Pod

	mu   sync.Mutex
	enis map[string]datapath.ENI
	vpc  []netip.Prefix
	// sure says that EC2 has told what ENIs there are.
	sure bool
	// inUse are addresses that something else than the pool's pods uses.
	inUse []netip.Addr
	// turn holds one token; it orders the changes to the kernel and the looks of
	// watch. What follows goes with the turn.
	turn chan struct{}
	// converted is true when the pods have the node's layout, which they may not
	// have from an agent before this one.
	converted bool
	// made is the node as the kernel was last brought to it, and rules the
	// translation; wanted says that there is one.
	made   datapath.Node
	rules  snat.Ruleset
	wanted bool
	// left is told of links that plugins have left behind to be deleted.
	left chan struct{}
}

// openLinks opens the network namespace that the process is in.
func openLinks(s settings) (*links, error) {
	path, err := datapath.Open("")
	if err != nil {
		return nil, err
	}
	out, err := snat.Open("")
	if err != nil {
		return nil, errors.Join(err, path.Close())
	}
	return &links{
		path: path,
		snat: out,
		node: datapath.Node{
			Layout: datapath.Layout(s.Layout), HostLinkPrefix: s.VethPrefix,
			ServicePrefixes: s.ServicePrefixes, RefuseMetadata: s.RefuseMetadata,
		},
		out: snat.Config{
			Excluded: s.ExcludeSNAT, HostLinkPrefix: s.VethPrefix, External: s.ExternalSNAT,
			Random: snat.Random(s.Randomize), NodePort: s.NodePort,
			Mark: datapath.MarkPrimary, ReturnMask: datapath.MarkENI,
		},
		enis: map[string]datapath.ENI{},
		turn: make(chan struct{}, 1),
		left: make(chan struct{}, 1),
	}, nil
}

func (l *links) close() error { return errors.Join(l.path.Close(), l.snat.Close()) }

// know takes in what was observed: the VPC's prefixes if none are known yet, and
// ENIs that are new. ENIs that are known already stay as Ensure saw them last, and
// the prefixes as setVPC did. sure means that EC2 has answered.
func (l *links) know(vpc []netip.Prefix, enis []agent.ENI, sure bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sure = l.sure || sure
	if len(l.vpc) == 0 {
		l.vpc = slices.SortedFunc(slices.Values(vpc), netip.Prefix.Compare)
	}
	for _, e := range enis {
		if _, known := l.enis[e.ID]; !known && !e.NoPods {
			l.enis[e.ID] = convertLink(e)
		}
	}
}

// Ensure makes the node's network follow from e and all other ENIs, and the
// translation at the VPC's edge with it.
func (l *links) Ensure(ctx context.Context, e agent.ENI) error {
	return l.inTurn(ctx, func() error {
		l.mu.Lock()
		l.enis[e.ID] = convertLink(e)
		l.mu.Unlock()
		if err := l.ensure(ctx, e.ID); err != nil {
			return err
		}
		return l.translate(ctx)
	})
}

// ensure makes the node's network follow from all ENIs whose link is there, and
// from the ENI of the id.
func (l *links) ensure(ctx context.Context, id string) error {
	err := l.ensureNode(ctx, l.snapshot(nil))
	if errors.Is(err, datapath.ErrNoLink) {
		err = l.ensureAttached(ctx, id)
	}
	return err
}

// ensureNode makes the node's part, and the pods' the first time.
func (l *links) ensureNode(ctx context.Context, n datapath.Node) error {
	if l.converted {
		l.made = n
		return l.path.EnsureNode(ctx, n)
	}
	uses, err := l.path.InUse(ctx, anywhere)
	if err == nil {
		err = l.witnessPods(n, uses)
	}
	if err != nil {
		return err
	}
	n.InUse = l.unknown(n, uses)
	l.setInUse(slices.Clone(n.InUse))
	l.made = n
	err = l.path.Ensure(ctx, datapath.Desired{Node: n, Pods: l.pods(0)})
	l.converted = err == nil
	return err
}

// ensureAttached leaves out ENIs whose link is not there, unless it is that of
// the ENI that this is about: what they had in the kernel went with the link.
func (l *links) ensureAttached(ctx context.Context, id string) error {
	state, err := l.path.Observe(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, link := range state.Links {
		there[link.MAC] = true
	}
	return l.ensureNode(ctx, l.snapshot(func(e datapath.ENI) bool {
		return e.ID == id || e.Primary() || there[e.MAC.String()]
	}))
}

// translate brings the SNAT rules up to date.
func (l *links) translate(ctx context.Context) error {
	cfg := l.out
	l.mu.Lock()
	cfg.VPC = slices.Clone(l.vpc)
	enis := slices.Collect(maps.Values(l.enis))
	l.mu.Unlock()
	state, err := l.path.Observe(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, kind := range []string{"veth", ""} { // hardware, if there is any
		for _, link := range state.Links {
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
	rules, err := cfg.Ruleset()
	if err != nil {
		return fmt.Errorf("source translation: %w", err)
	}
	l.rules, l.wanted = rules, true
	_, err = l.snat.Apply(ctx, rules)
	return err
}

// setVPC makes the translation follow from other prefixes of the VPC. Before the
// first ENI is set up there is nothing to do.
func (l *links) setVPC(ctx context.Context, vpc []netip.Prefix) error {
	return l.inTurn(ctx, func() error {
		l.mu.Lock()
		l.vpc = slices.Clone(vpc)
		l.mu.Unlock()
		if !l.wanted {
			return nil
		}
		return l.translate(ctx)
	})
}

// vpcPrefixes are those that the translation follows from.
func (l *links) vpcPrefixes() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.vpc)
}

// Remove takes an ENI out of the node's network.
func (l *links) Remove(ctx context.Context, id string) error {
	return l.inTurn(ctx, func() error {
		before := l.snapshot(nil)
		l.mu.Lock()
		e, known := l.enis[id]
		delete(l.enis, id) // first, so that watch does not put it back
		l.mu.Unlock()
		err := l.path.RemoveENI(ctx, before, id)
		if err != nil && known {
			l.mu.Lock()
			l.enis[id] = e
			l.mu.Unlock()
		}
		l.made = l.snapshot(nil)
		return err
	})
}

// watch repairs what others change of the node's and its pods' network, until
// ctx ends. Start it when all ENIs are known: what belongs to none goes. What a
// pod lacks that a plugin may still be wiring is no drift, and what this process
// changes in the meantime is not looked at half-way.
func (l *links) watch(ctx context.Context, repaired func(datapath.Repair), log *slog.Logger) error {
	err := l.path.Watch(ctx, datapath.WatchConfig{
		Desired:   func() datapath.Desired { return datapath.Desired{Node: l.made, Pods: l.pods(wiring)} },
		Repaired:  repaired,
		Logger:    log,
		Exclusive: l.inTurn,
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watchTranslation does the same for the translation at the VPC's edge.
func (l *links) watchTranslation(ctx context.Context, repaired func(snat.Repair), log *slog.Logger) error {
	err := l.snat.Watch(ctx, snat.WatchConfig{
		Desired:   func() (snat.Ruleset, bool) { return l.rules, l.wanted },
		Repaired:  repaired,
		Logger:    log,
		Exclusive: l.inTurn,
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// sweepSoon tells sweep of links to delete.
func (l *links) sweepSoon() {
	select {
	case l.left <- struct{}{}:
	default: // it knows already
	}
}

// sweepTogether is how long sweep waits for more: to delete a link takes the
// kernel tens of milliseconds, which all that go together share.
const sweepTogether = 100 * time.Millisecond

// sweep deletes the links that plugins leave behind, until ctx ends.
func (l *links) sweep(ctx context.Context, log *slog.Logger) error {
	for {
		if err := l.path.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Warn("links of ended pods stay for now", "err", err)
		}
		select {
		case <-l.left:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(sweepTogether):
		case <-ctx.Done():
			return nil
		}
	}
}

// snapshot is the node with those of its ENIs that keep accepts, all if it is
// nil.
func (l *links) snapshot(keep func(datapath.ENI) bool) datapath.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.node
	n.InUse = slices.Clone(l.inUse)
	for _, id := range slices.Sorted(maps.Keys(l.enis)) {
		if e := l.enis[id]; keep == nil || keep(e) {
			n.ENIs = append(n.ENIs, e)
		}
	}
	return n
}

// inTurn calls do when no one else does.
func (l *links) inTurn(ctx context.Context, do func() error) error {
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
