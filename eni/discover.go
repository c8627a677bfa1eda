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

// Discover asks the metadata service and EC2 what ENIs the instance has: one
// call to EC2. It fails only if neither answers, or the instance cannot be
// identified; with one of them it answers as well as it can, see Inventory.
// A slot that is being released is not shown, so that nobody gets it again.
func (m *Manager) Discover(ctx context.Context) (Inventory, error) {
	select {
	case m.looking <- struct{}{}:
		defer func() { <-m.looking }()
	case <-ctx.Done():
		return Inventory{}, ctx.Err()
	}
	if err := m.load(ctx); err != nil {
		return Inventory{}, err
	}
	in, shown, metadataErr := m.lookMetadata(ctx)
	if in.Instance.ID == "" {
		return Inventory{}, fmt.Errorf("identify the instance: %w", metadataErr)
	}
	asked := time.Now()
	ec2, ec2Err := m.ec2.describeENIs(ctx, filter{"attachment.instance-id", []string{in.Instance.ID}})
	if ec2Err == nil {
		in.EC2, in.EC2At = ec2, asked
	} else if metadataErr != nil {
		return Inventory{}, errors.Join(ec2Err, metadataErr)
	}
	m.mu.Lock()
	in.Prev = m.inv
	in.Intents = slices.Collect(maps.Values(m.intents))
	m.inv = Merge(in)
	m.inv.EC2Err, m.inv.MetadataErr = ec2Err, metadataErr
	if metadataErr == nil {
		m.shown = shown
	}
	m.mu.Unlock()
	return m.Inventory(), m.prune(ctx)
}

// lookMetadata reads the metadata service. Without it the instance is the one
// known before.
func (m *Manager) lookMetadata(ctx context.Context) (MergeInput, string, error) {
	m.mu.Lock()
	inst := m.inv.Instance
	m.mu.Unlock()
	in := MergeInput{Instance: inst, Owner: m.cfg.Owner, Lag: m.cfg.Lag, TripShare: m.cfg.TripShare}
	asked := time.Now()
	if inst.ID == "" {
		var err error
		if inst, err = m.ec2.identity(ctx); err != nil {
			return in, "", err
		}
	}
	macs, err := m.ec2.macs(ctx)
	if err != nil {
		return in, "", err
	}
	var enis []ENI
	for _, mac := range macs {
		l, err := m.ec2.leaf(ctx, mac, leafKeys)
		if err != nil {
			return in, "", err
		}
		e := l.eni(mac, mac == inst.PrimaryMAC)
		if e.ID == "" {
			continue // gone between the listing and the reading
		}
		if e.Primary {
			inst.PrimaryENI, inst.VPCID, inst.Groups, inst.VPC = e.ID, e.VPCID, e.Groups, l.vpc()
			inst.PrimarySubnet = Subnet{
				ID: e.SubnetID, Zone: inst.Zone, VPCID: e.VPCID, Prefix: e.Subnet, Prefix6: e.Subnet6, Free: -1,
			}
		}
		enis = append(enis, e)
	}
	if inst.PrimaryENI == "" {
		return in, "", &OpError{Op: "metadata " + macsPath + inst.PrimaryMAC, Why: ReasonNoMetadata, Err: errors.New("primary ENI not shown")}
	}
	in.Instance, in.Metadata, in.MetadataAt = inst, enis, asked
	return in, signature(enis), nil
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
// lately, or what the last Discover weighed already, is no news.
func (m *Manager) Check(ctx context.Context) (due bool, err error) {
	m.mu.Lock()
	never, primary := m.inv.At.IsZero(), m.inv.Instance.PrimaryMAC
	m.mu.Unlock()
	if never {
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
	if m.inv.EC2Err != nil || m.inv.MetadataErr != nil || m.inv.Trip != nil {
		return true // the last look was not a full one
	}
	if signature(enis) == m.shown {
		return false
	}
	w := merger{
		MergeInput: MergeInput{Prev: m.inv, Metadata: enis, Lag: m.cfg.Lag, Instance: m.inv.Instance},
		at:         time.Now(),
		own:        evidenceOf(slices.Collect(maps.Values(m.intents))),
	}
	return slices.ContainsFunc(w.ids(), func(id string) bool { return w.unexplained(w.view(id)) })
}

// unexplained says whether the metadata service differs from what is known of
// an ENI, and no own change of late explains it.
func (m *merger) unexplained(v view) bool {
	switch {
	case v.own.coming || v.own.leaving || v.own.gone && m.recent(v.own.left) || m.recent(v.own.attached):
		return false
	case v.prev == nil || v.metadata == nil:
		return true
	}
	for _, b := range slices.Concat(v.prev.Blocks(), v.metadata.Blocks()) {
		c, ok := v.own.changes[b]
		if ok && (c.open || m.recent(c.at)) {
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
		settled := heard.After(in.Changed.Add(m.cfg.Lag))
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
