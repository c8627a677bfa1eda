// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Discover asks the metadata service and EC2 concurrently which ENIs the instance
// has. It makes one call to EC2. It fails only if neither source answers, or if
// the instance cannot be identified. If one source answers, it returns what that
// source and earlier knowledge allow, see Inventory. The result omits a slot that
// is being released, so that no pod gets it again.
//
// Once there is an inventory, from an earlier Discover or from Config.Known, a slow
// source does not delay Discover for long: it has 2 seconds after the other has
// answered, and neither has longer than ClientConfig.Timeout. EC2Err or
// MetadataErr of the inventory then names the missing source, and earlier knowledge
// of the ENIs stays valid. Each further Discover that lacks an answer doubles
// these 2 seconds, up to that Timeout, so that a source that is always slow gets
// to answer too.
//
// A new process without Config.Known that EC2 does not answer knows its managed ENIs by
// the journal, and their slots by the metadata service. Discover then waits for EC2 for
// ClientConfig.Timeout, or longer while EC2 throttles. The slots are in doubt until the
// process has run for Config.Lag.
func (m *Manager) Discover(ctx context.Context) (Inventory, error) {
	return m.discover(ctx, false)
}

// sourceGrace is how long one source may take at first after the other has
// answered. EC2 normally describes the ENIs of an instance within half a second.
const sourceGrace = 2 * time.Second

// observation is the result of asking both sources once.
type observation struct {
	mergeInput
	ec2Err, metadataErr error
	signature           string // of the metadata
}

// discover implements Discover. If patient is set, it waits for both sources as
// long as each of them may take, which is minutes.
func (m *Manager) discover(ctx context.Context, patient bool) (Inventory, error) {
	if err := m.loadJournal(ctx); err != nil {
		return Inventory{}, err
	}
	s, err := m.observe(ctx, patient)
	if err != nil {
		return Inventory{}, err
	}
	m.applyObservation(s)
	if err := m.recordOwned(ctx); err != nil {
		return m.Inventory(), err
	}
	return m.Inventory(), m.prune(ctx)
}

// observe asks both sources.
func (m *Manager) observe(ctx context.Context, patient bool) (observation, error) {
	m.mu.Lock()
	inst, known, everDiscovered, partial := m.inv.Instance, !m.inv.At.IsZero(), m.everDiscovered, m.partialDiscovers
	m.mu.Unlock()
	s := observation{mergeInput: mergeInput{Owner: m.cfg.Owner, Lag: m.cfg.Lag, TripShare: m.cfg.TripShare}}
	if !known {
		var err error
		if inst, err = m.ec2.identity(ctx); err != nil {
			return s, fmt.Errorf("identify the instance: %w", err)
		}
	}
	extra := time.Duration(0)
	if known && !patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.ec2.cfg.Timeout)
		defer cancel()
		extra = min(sourceGrace<<min(partial, 8), m.ec2.cfg.Timeout)
	}
	s.Instance = inst
	s.metadataErr, s.ec2Err = runBoth(ctx, extra, func(ctx context.Context) error {
		if known && !everDiscovered {
			if err := m.sameInstance(ctx, inst.ID); err != nil {
				return err
			}
		}
		return m.observeMetadata(ctx, &s)
	}, func(ctx context.Context) error {
		if !known && !patient && m.ownsAny() {
			ctx = withOneAnswer(ctx) // the journal and the metadata tell enough
		}
		return m.withRest(restKey{op: "discover", short: true}, func() error {
			asked := time.Now()
			enis, err := m.ec2.describeENIs(ctx, filter{"attachment.instance-id", []string{inst.ID}})
			if err == nil {
				s.EC2, s.EC2At = enis, asked
			}
			return err
		})
	})
	if errors.Is(s.metadataErr, errOtherInstance) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.inv = Inventory{}
		return s, s.metadataErr
	}
	if s.ec2Err != nil && s.metadataErr != nil {
		return s, errors.Join(s.ec2Err, s.metadataErr)
	}
	return s, nil
}

// applyObservation merges an observation into the inventory. It ignores an
// observation that is older than the inventory, unless only the observation has an
// answer of EC2.
func (m *Manager) applyObservation(s observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := earlier(s.EC2At, s.MetadataAt)
	if at.Before(m.observedAt) && (s.EC2At.IsZero() || !m.inv.EC2At.IsZero()) {
		return
	}
	s.Prev, s.Loaded = m.inv, m.journalRead
	s.Intents = slices.Collect(maps.Values(m.intents))
	m.inv = merge(s.mergeInput)
	m.inv.EC2Err, m.inv.MetadataErr = s.ec2Err, s.metadataErr
	m.everDiscovered, m.observedAt = true, at
	m.dropRefusals()
	if m.partialDiscovers++; s.ec2Err == nil && s.metadataErr == nil {
		m.partialDiscovers = 0
	}
	if s.metadataErr == nil {
		m.lastMetadata = s.signature
	}
}

// errOtherInstance says that Config.Known describes another instance.
var errOtherInstance = errors.New("Config.Known describes another instance and is not used")

// sameInstance returns an error if the instance has another ID than the one in
// Config.Known.
func (m *Manager) sameInstance(ctx context.Context, id string) error {
	now, _, err := m.ec2.metadata(ctx, "instance-id")
	if err == nil && strings.TrimSpace(now) != id {
		err = fmt.Errorf("%w: it describes %s, this is %s", errOtherInstance, id, strings.TrimSpace(now))
	}
	return err
}

// observeMetadata stores the answer of the metadata service in s.
func (m *Manager) observeMetadata(ctx context.Context, s *observation) error {
	inst, asked := s.Instance, time.Now()
	macs, err := m.ec2.macs(ctx)
	if err != nil {
		return err
	}
	var enis []ENI
	for _, mac := range macs {
		l, err := m.ec2.macData(ctx, mac, macKeys)
		if err != nil {
			return err
		}
		if mac == inst.PrimaryMAC {
			if err := m.ec2.ownAddrs(ctx, l); err != nil {
				return err
			}
		}
		e := l.eni(mac, mac == inst.PrimaryMAC)
		if e.ID == "" {
			continue // the ENI disappeared after the listing
		}
		if e.Primary {
			inst.PrimaryENI, inst.VPCID, inst.Groups = e.ID, e.VPCID, e.Groups
			if vpc, err := l.vpc(); err == nil {
				inst.VPC = vpc
			}
			inst.PrimarySubnet = Subnet{
				ID: e.SubnetID, Zone: inst.Zone, VPCID: e.VPCID, Prefix: e.Subnet, Prefix6: e.Subnet6, Free: -1,
			}
		}
		enis = append(enis, e)
	}
	if inst.PrimaryENI == "" {
		return &OpError{Op: "metadata " + macsPath + inst.PrimaryMAC, reason: ReasonNoMetadata, Err: errors.New("the primary ENI is missing")}
	}
	s.Instance, s.Metadata, s.MetadataAt, s.signature = inst, enis, asked, signature(enis)
	return nil
}

// signature summarizes the ENIs and addresses that the metadata service shows, in
// any order.
func signature(enis []ENI) string {
	lines := make([]string, len(enis))
	for i, e := range enis {
		e = e.withOwn(netip.Addr{}, netip.Addr{})
		lines[i] = fmt.Sprint(e.ID, e.Blocks())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Check compares the metadata service with the inventory and reports whether a
// Discover is due. It makes no EC2 calls, so that a node can check every minute
// and still make none while nothing changes. Recent changes by this node, and
// differences that the last Discover has taken into account, do not count. After a
// Discover without an answer of EC2, another one is due.
//
// Check reads which ENIs there are, and the addresses of at most 8 of them, in turn; of all
// of them if there is a difference.
func (m *Manager) Check(ctx context.Context) (due bool, err error) {
	m.mu.Lock()
	partial := !m.everDiscovered || m.inv.EC2Err != nil || m.inv.Trip != nil
	m.mu.Unlock()
	if partial {
		return true, nil
	}
	macs, err := m.ec2.macs(ctx)
	if err != nil {
		return false, err
	}
	began := time.Now()
	if err := m.readENIs(ctx, m.oldest(macs, checkedENIs)); err != nil {
		return false, err
	}
	if !m.metadataChanged(m.shownENIs(macs)) {
		return false, nil
	}
	rest := slices.DeleteFunc(m.oldest(macs, len(macs)), func(mac string) bool { return m.readSince(mac, began) })
	if err := m.readENIs(ctx, rest); err != nil {
		return false, err
	}
	return m.metadataChanged(m.shownENIs(macs)), nil
}

// checkedENIs is of how many ENIs Check reads the addresses. With a Check each 30 seconds,
// those of 16 ENIs are read each minute, as often as amazon-vpc-cni-k8s reads them.
const checkedENIs = 8

// shownENI is an ENI as the metadata service has last shown it, and when it was read.
type shownENI struct {
	ENI
	at time.Time
}

// oldest returns the n ENIs that were read the longest time ago, by MAC, and those that were
// never read.
func (m *Manager) oldest(macs []string, n int) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	macs = slices.Clone(macs)
	slices.SortStableFunc(macs, func(a, b string) int { return m.shown[a].at.Compare(m.shown[b].at) })
	never := 0
	for never < len(macs) && m.shown[macs[never]].at.IsZero() {
		never++
	}
	return macs[:min(max(n, never), len(macs))]
}

// readSince reports whether an ENI was read at t or later.
func (m *Manager) readSince(mac string, t time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.shown[mac].at.Before(t)
}

// readENIs reads the addresses of ENIs from the metadata service. Of an ENI that it has
// shown before, it knows the ID.
func (m *Manager) readENIs(ctx context.Context, macs []string) error {
	for _, mac := range macs {
		m.mu.Lock()
		known, primary := m.shown[mac].ID, m.inv.Instance.PrimaryMAC
		m.mu.Unlock()
		keys := slotKeys
		if known != "" {
			keys = slotKeys[1:]
		}
		at := time.Now()
		l, err := m.ec2.macData(ctx, mac, keys)
		if err != nil {
			return err
		}
		if known != "" && len(l) > 0 {
			l[slotKeys[0]] = known
		}
		m.mu.Lock()
		m.shown[mac] = shownENI{l.eni(mac, mac == primary), at}
		m.mu.Unlock()
	}
	return nil
}

// shownENIs returns the ENIs as they were last read, and forgets all others.
func (m *Manager) shownENIs(macs []string) (enis []ENI) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.shown, func(mac string, _ shownENI) bool { return !slices.Contains(macs, mac) })
	for _, mac := range macs {
		if e := m.shown[mac].ENI; e.ID != "" {
			enis = append(enis, e)
		}
	}
	return enis
}

// metadataChanged reports whether the metadata service shows a change that this
// node did not make.
func (m *Manager) metadataChanged(enis []ENI) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inv.MetadataErr != nil {
		return true // the last Discover was not complete
	}
	if signature(enis) == m.lastMetadata {
		return false
	}
	w := merger{
		mergeInput: mergeInput{Prev: m.inv, Metadata: enis, Lag: m.cfg.Lag, Instance: m.inv.Instance, Loaded: m.journalRead},
		at:         time.Now(),
		own:        evidenceOf(slices.Collect(maps.Values(m.intents))),
	}
	return slices.ContainsFunc(w.ids(), func(id string) bool { return w.unexplained(w.view(id)) })
}

// unexplained reports whether the metadata service differs from the inventory for
// an ENI, and no recent change by this node explains the difference.
func (m *merger) unexplained(v view) bool {
	switch {
	case v.own.adding || v.own.removing || v.own.removed && m.mayLag(v.own.removedAt) || m.mayLag(v.own.attachedAt):
		return false
	case v.prev == nil || v.metadata == nil:
		return true
	}
	for _, b := range slices.Concat(v.prev.Blocks(), v.metadata.Blocks()) {
		c, ok := v.own.changes[b]
		if ok && (c.pending || m.mayLag(c.at)) {
			continue
		}
		if hasBlock(v.prev, b) != hasBlock(v.metadata, b) {
			return true
		}
	}
	return false
}

// prune deletes the intents that every source has had time to show. It also deletes
// assign intents that lost their answer, because EC2's listing has shown their
// outcome.
func (m *Manager) prune(ctx context.Context) error {
	m.mu.Lock()
	ec2At := m.inv.EC2At
	var old []string
	for id, in := range m.intents {
		if in.Op == OpOwned || in.Op == OpLearned && !m.learned.empty() {
			continue
		}
		if ec2At.After(m.lagEndsLocked(in)) && !m.busy[id] && (in.Done || in.Op == OpAssign) {
			old = append(old, id)
		}
	}
	m.mu.Unlock()
	for _, id := range old {
		if err := m.removeIntent(ctx, id); err != nil {
			return fmt.Errorf("prune the journal of intents: %w", err)
		}
	}
	return nil
}
