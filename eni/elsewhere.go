// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// elsewhereFor is how long Assign does not fall back to single addresses while another
// subnet may have a free prefix. It is longer than the creation of an ENI takes, and
// short enough for a pod that waits.
const elsewhereFor = 10 * time.Second

// awaitElsewhere returns an error, ErrNoFreePrefix, as long as single addresses for e
// would be too early: another subnet may have a prefix, and less than elsewhereFor has
// passed since the first such error. If no prefix was obtained in that time, single
// addresses are allowed until exhaustedFor has passed.
func (m *Manager) awaitElsewhere(ctx context.Context, e ENI) error {
	if !m.prefixElsewhere(ctx, e) {
		return nil
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch since := now.Sub(m.elsewhereSince); {
	case since >= exhaustedFor:
		m.elsewhereSince = now
	case since >= elsewhereFor:
		return nil
	}
	return &OpError{
		Op: string(OpAssign), ENI: e.ID, reason: ReasonNoFreePrefix, retryAfter: m.elsewhereSince.Add(elsewhereFor).Sub(now),
		Err: errors.New("another subnet may have a free prefix"),
	}
}

// prefixElsewhere reports whether this node may get a prefix in a subnet other than that
// of e: the subnet is allowed and not known to be without prefixes, and e's card takes
// another ENI or has one in that subnet with a free slot. If the subnets cannot be
// listed, it reports false.
func (m *Manager) prefixElsewhere(ctx context.Context, e ENI) bool {
	l, err := m.Limits(ctx)
	if err != nil {
		return false
	}
	subnets, err := m.candidates(ctx)
	if err != nil {
		return false
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	room := m.roomLocked(l, e.Card, now)
	return slices.ContainsFunc(subnets, func(s string) bool {
		return s != e.SubnetID && !m.withoutPrefixLocked(s, now) && (room || m.freeSlotLocked(l, e.Card, s, now))
	})
}

// withoutPrefixLocked reports whether a subnet is known to have no free /28: EC2 has
// refused one lately, or the listing shows fewer free addresses.
func (m *Manager) withoutPrefixLocked(subnet string, now time.Time) bool {
	x := m.exhausted[subnet]
	return now.Before(x.prefixes) || now.Before(x.all) ||
		slices.ContainsFunc(m.subnets, func(s Subnet) bool { return s.ID == subnet && s.Free < 16 })
}

// roomLocked reports whether Provision may create another ENI on a card: the card has a
// free place, and Provision does not rest after a failure.
func (m *Manager) roomLocked(l instancetype.Limits, card int, now time.Time) bool {
	_, ok := freePlace(card, m.cardLimitLocked(l, card, now), m.takenPlacesLocked(nil))
	return ok && !now.Before(m.rests[restKey{op: OpProvision, kind: KindInterface}].until)
}

// roomForSingles returns an ENI for pods, on the card of in, that has a free IPv4 slot, in a
// subnet that is not known to be full. It returns an empty ID if there is none.
func (m *Manager) roomForSingles(l instancetype.Limits, in ProvisionInput) string {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.inv.ENIs {
		limit := m.slotRefusals[slotKey{e.ID, IPv4}].limit(l.SlotsPerENI(), now)
		if e.Card == in.Card && e.ForPods() && !e.InFlight && (in.PodsOnPrimary || !e.Primary) &&
			e.Slots(IPv4) < limit && !now.Before(m.exhausted[e.SubnetID].all) {
			return e.ID
		}
	}
	return ""
}

// freeSlotLocked reports whether an ENI for pods in a subnet has a free IPv4 slot. It
// does not consider the primary ENI, which the program may keep without pods.
func (m *Manager) freeSlotLocked(l instancetype.Limits, card int, subnet string, now time.Time) bool {
	return slices.ContainsFunc(m.inv.ENIs, func(e ENI) bool {
		limit := m.slotRefusals[slotKey{e.ID, IPv4}].limit(l.SlotsPerENI(), now)
		return e.Card == card && e.SubnetID == subnet && !e.Primary && e.ForPods() && e.Slots(IPv4) < limit
	})
}
