// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Discover asks the metadata service and EC2, both at the same time, what ENIs
// the instance has: one call to EC2. It fails only if neither answers, or the
// instance cannot be identified; with one of them it answers as well as it can,
// see Inventory. A slot that is being released is not shown, so that nobody gets
// it again.
//
// Once there is an inventory, of an earlier Discover or from Config.Known, one
// slow source holds nothing up: when the other has answered, it has 2 seconds
// more, and neither has longer than ClientConfig.Timeout. The inventory then says
// in EC2Err or MetadataErr what is missing, and what was known of the ENIs holds.
// Each further Discover that has to do without the same source gives it twice the
// time, up to that Timeout, so that one that is always slow is heard too.
func (m *Manager) Discover(ctx context.Context) (Inventory, error) {
	return m.discover(ctx, false)
}

// grace is how long one source may take at first after the other has answered. EC2
// describes the ENIs of an instance within half a second, when it is well.
const grace = 2 * time.Second

// sight is what one look at both sources has shown.
type sight struct {
	MergeInput
	ec2Err, metadataErr error
	shown               string // by the metadata service
}

// discover is Discover; if patient, it waits for both sources as long as each can
// take, which is minutes.
func (m *Manager) discover(ctx context.Context, patient bool) (Inventory, error) {
	if err := m.load(ctx); err != nil {
		return Inventory{}, err
	}
	s, err := m.ask(ctx, patient)
	if err != nil {
		return Inventory{}, err
	}
	m.take(s)
	return m.Inventory(), m.prune(ctx)
}

// ask asks both sources.
func (m *Manager) ask(ctx context.Context, patient bool) (sight, error) {
	m.mu.Lock()
	inst, known, looked, missed := m.inv.Instance, !m.inv.At.IsZero(), m.looked, m.missed
	m.mu.Unlock()
	s := sight{MergeInput: MergeInput{Owner: m.cfg.Owner, Lag: m.cfg.Lag, TripShare: m.cfg.TripShare}}
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
		extra = min(grace<<min(missed, 8), m.ec2.cfg.Timeout)
	}
	s.Instance = inst
	s.metadataErr, s.ec2Err = both(ctx, extra, func(ctx context.Context) error {
		if known && !looked {
			if err := m.sameInstance(ctx, inst.ID); err != nil {
				return err
			}
		}
		return m.lookMetadata(ctx, &s)
	}, func(ctx context.Context) (err error) {
		asked := time.Now()
		if s.EC2, err = m.ec2.describeENIs(ctx, filter{"attachment.instance-id", []string{inst.ID}}); err == nil {
			s.EC2At = asked
		}
		return err
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

// take makes a sight the inventory. One that is older than what is there is
// passed over, unless it alone has heard EC2.
func (m *Manager) take(s sight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := earlier(s.EC2At, s.MetadataAt)
	if at.Before(m.asked) && (s.EC2At.IsZero() || !m.inv.EC2At.IsZero()) {
		return
	}
	s.Prev, s.Loaded = m.inv, m.read
	s.Intents = slices.Collect(maps.Values(m.intents))
	m.inv = Merge(s.MergeInput)
	m.inv.EC2Err, m.inv.MetadataErr = s.ec2Err, s.metadataErr
	m.looked, m.asked = true, at
	m.forgetRefusals()
	if m.missed++; s.ec2Err == nil && s.metadataErr == nil {
		m.missed = 0
	}
	if s.metadataErr == nil {
		m.shown = s.shown
	}
}

// errOtherInstance says that Config.Known is of another instance.
var errOtherInstance = errors.New("Config.Known is of another instance and has been dropped")

// sameInstance checks the identity that Config.Known gave.
func (m *Manager) sameInstance(ctx context.Context, id string) error {
	now, _, err := m.ec2.metadata(ctx, "instance-id")
	if err == nil && strings.TrimSpace(now) != id {
		err = fmt.Errorf("%w: known is %s, this is %s", errOtherInstance, id, strings.TrimSpace(now))
	}
	return err
}

// lookMetadata reads the metadata service into s.
func (m *Manager) lookMetadata(ctx context.Context, s *sight) error {
	inst, asked := s.Instance, time.Now()
	macs, err := m.ec2.macs(ctx)
	if err != nil {
		return err
	}
	var enis []ENI
	for _, mac := range macs {
		l, err := m.ec2.leaf(ctx, mac, leafKeys)
		if err != nil {
			return err
		}
		e := l.eni(mac, mac == inst.PrimaryMAC)
		if e.ID == "" {
			continue // gone between the listing and the reading
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
		return &OpError{Op: "metadata " + macsPath + inst.PrimaryMAC, Why: ReasonNoMetadata, Err: errors.New("primary ENI not shown")}
	}
	s.Instance, s.Metadata, s.MetadataAt, s.shown = inst, enis, asked, signature(enis)
	return nil
}

// signature is a short form of what the metadata service shows.
func signature(enis []ENI) string {
	lines := make([]string, len(enis))
	for i, e := range enis {
		lines[i] = fmt.Sprint(e.ID, e.Blocks())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Check compares the metadata service with what is known and reports whether a
// Discover is due. It makes no EC2 calls, so that a node can check every minute
// and still cost nothing while nothing changes. What the node itself changed
// lately, or what the last Discover weighed already, is no news. After a Discover
// that did not hear EC2, another is due.
func (m *Manager) Check(ctx context.Context) (due bool, err error) {
	m.mu.Lock()
	partial := !m.looked || m.inv.EC2Err != nil || m.inv.Trip != nil
	primary := m.inv.Instance.PrimaryMAC
	m.mu.Unlock()
	if partial {
		return true, nil
	}
	macs, err := m.ec2.macs(ctx)
	if err != nil {
		return false, err
	}
	var enis []ENI
	for _, mac := range macs {
		l, err := m.ec2.leaf(ctx, mac, slotKeys)
		if err != nil {
			return false, err
		}
		if e := l.eni(mac, mac == primary); e.ID != "" {
			enis = append(enis, e)
		}
	}
	return m.news(enis), nil
}

// news says whether the metadata service shows something unexplained.
func (m *Manager) news(enis []ENI) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inv.MetadataErr != nil {
		return true // the last look was not a full one
	}
	if signature(enis) == m.shown {
		return false
	}
	w := merger{
		MergeInput: MergeInput{Prev: m.inv, Metadata: enis, Lag: m.cfg.Lag, Instance: m.inv.Instance, Loaded: m.read},
		at:         time.Now(),
		own:        evidenceOf(slices.Collect(maps.Values(m.intents))),
	}
	return slices.ContainsFunc(w.ids(), func(id string) bool { return w.unexplained(w.view(id)) })
}

// unexplained says whether the metadata service differs from what is known of
// an ENI, and no own change of late explains it.
func (m *merger) unexplained(v view) bool {
	switch {
	case v.own.coming || v.own.leaving || v.own.gone && m.weighs(v.own.left) || m.weighs(v.own.attached):
		return false
	case v.prev == nil || v.metadata == nil:
		return true
	}
	for _, b := range slices.Concat(v.prev.Blocks(), v.metadata.Blocks()) {
		c, ok := v.own.changes[b]
		if ok && (c.open || m.weighs(c.at)) {
			continue
		}
		if holds(v.prev, b) != holds(v.metadata, b) {
			return true
		}
	}
	return false
}

// prune drops the intents that no source can be too old to know of. Assignments
// whose answer was lost end here too: EC2's listing has told their outcome.
func (m *Manager) prune(ctx context.Context) error {
	m.mu.Lock()
	heard := m.inv.EC2At
	var old []string
	for id, in := range m.intents {
		settled := heard.After(m.settlesLocked(in))
		if settled && !m.busy[id] && (in.Done || in.Op == OpAssign) {
			old = append(old, id)
		}
	}
	m.mu.Unlock()
	for _, id := range old {
		if err := m.forget(ctx, id); err != nil {
			return fmt.Errorf("prune the journal of intents: %w", err)
		}
	}
	return nil
}
