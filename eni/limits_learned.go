// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// learnedLimits are the limits of the instance type that refusals of EC2 have shown to
// be lower than those of the source. If the source is instancetype.Safe, a guess, they
// count until EC2 states the limits. Otherwise a refusal of slots counts for minutes,
// like a refused ENI of a card, because the source is probably right.
type learnedLimits struct {
	kind        string             // the instance type; empty before it is known
	newENISlots map[Family]refusal // slots that a new ENI may have, by family
	noPrefixes  bool               // the type does not support delegated prefixes
	lessons     int                // how many refusals have lowered a limit
}

// LearnedLimits is what refusals of EC2 have shown about an instance type without limits
// in the built-in table and in EC2's answers. It is stored with OpLearned, so that a new
// process does not create and delete an ENI to learn the same again. A Manager on
// another type of instance ignores it.
type LearnedLimits struct {
	// Version is that of this record, learnedVersion. Records of other versions are
	// ignored.
	Version int
	Type    string
	// Slots is the number of slots that a new ENI may have, by family. A family that
	// is missing has the limit of Limits.
	Slots map[Family]int `json:",omitempty"`
	// NoPrefixes says that the type does not support delegated prefixes.
	NoPrefixes bool `json:",omitempty"`
}

// learnedVersion is the version of LearnedLimits that this package reads and writes,
// and learnedID the ID of its intent.
const (
	learnedVersion = 1
	learnedID      = "learned-limits"
)

// record returns what to store.
func (k learnedLimits) record() LearnedLimits {
	r := LearnedLimits{Version: learnedVersion, Type: k.kind, NoPrefixes: k.noPrefixes}
	for f, slots := range k.newENISlots {
		if r.Slots == nil {
			r.Slots = map[Family]int{}
		}
		r.Slots[f] = slots.count
	}
	return r
}

// restoreLearned converts what an earlier process has stored.
func restoreLearned(r *LearnedLimits) learnedLimits {
	if r == nil || r.Version != learnedVersion {
		return learnedLimits{}
	}
	k := learnedLimits{kind: r.Type, noPrefixes: r.NoPrefixes, newENISlots: map[Family]refusal{}}
	for f, n := range r.Slots {
		k.newENISlots[f] = refusal{count: n, inRow: 1}
	}
	return k
}

// empty reports whether refusals have shown nothing.
func (k learnedLimits) empty() bool { return len(k.newENISlots) == 0 && !k.noPrefixes }

// storeLearned journals what refusals have shown about a type with guessed limits. A
// failure of the journal is ignored: it costs an ENI created in vain after a restart,
// and the next intent reports it.
func (m *Manager) storeLearned(ctx context.Context) {
	m.mu.Lock()
	r, stored := m.learned.record(), m.intents[learnedID].Learned
	same := stored != nil && stored.NoPrefixes == r.NoPrefixes && stored.Type == r.Type && maps.Equal(stored.Slots, r.Slots)
	skip := same || !guessed(m.limits) || m.learned.empty()
	m.mu.Unlock()
	if !skip {
		now := time.Now()
		_ = m.putIntent(ctx, Intent{ID: learnedID, Op: OpLearned, Start: now, Changed: now, Done: true, Learned: &r})
	}
}

// guessed reports whether no source has the limits of the type.
func guessed(l instancetype.Limits) bool { return l.Source == "default" }

// apply returns the limits of a source with what refusals add to them.
func (k learnedLimits) apply(l instancetype.Limits) instancetype.Limits {
	l.Nitro = l.Nitro && !(guessed(l) && k.noPrefixes)
	return l
}

// slots returns n, lowered to the slots of a family that a new ENI may have.
func (k learnedLimits) slots(l instancetype.Limits, f Family, n int, now time.Time) int {
	if r, ok := k.newENISlots[f]; ok && (guessed(l) || now.Before(r.until)) {
		return min(n, r.count)
	}
	return n
}

// fit reduces a request for a new ENI to what refusals have shown to be possible.
func (k learnedLimits) fit(in ProvisionInput, l instancetype.Limits, now time.Time) ProvisionInput {
	in.Slots, in.Singles = k.slots(l, IPv4, in.Slots, now), k.slots(l, IPv4, in.Singles, now)
	in.Slots6 = k.slots(l, IPv6, in.Slots6, now)
	if k.noPrefixes && guessed(l) {
		in.Prefixes, in.Slots6 = false, 0
	}
	return in
}

// refuseSlots records that EC2 refused a new ENI with n slots of a family. The next
// one gets half as many, and after a second refusal none, so that at most three ENIs
// are created in vain. Assign fills the ENI up to its real limit. It reports false if
// n is 0 already.
func (k *learnedLimits) refuseSlots(f Family, n int, now time.Time) bool {
	if n <= 0 {
		return false
	}
	fewer := n / 2
	if k.newENISlots[f].inRow > 0 {
		fewer = 0
	}
	if k.newENISlots == nil {
		k.newENISlots = map[Family]refusal{}
	}
	k.newENISlots[f] = k.newENISlots[f].next(fewer, now, cardRefusalFirst, cardRefusalMost)
	k.lessons++
	return true
}

// attached removes the refusals that an attached ENI contradicts.
func (k *learnedLimits) attached(it Intent) {
	for _, f := range []Family{IPv4, IPv6} {
		if r, ok := k.newENISlots[f]; ok && requestedSlots(it, f) > r.count {
			delete(k.newENISlots, f)
		}
	}
}

// requestedSlots returns the slots of a family that an intent requests.
func requestedSlots(it Intent, f Family) int {
	if f == IPv6 {
		return it.Addrs6 + it.Prefixes6
	}
	return it.Addrs + it.Prefixes
}

// learnFromAttach records the limit that EC2 named when it refused to attach a new ENI
// with all its slots. It reports false if the refusal does not show such a limit, or
// one that a smaller ENI could not meet either.
func (m *Manager) learnFromAttach(ctx context.Context, it Intent, refused error) bool {
	if _, err := m.Limits(ctx); err != nil {
		return false
	}
	if reasonOf(refused) != ReasonSlotLimit {
		return it.Kind != KindTrunk && m.learnNoPrefixes(ctx, it.Prefixes+it.Prefixes6, refused)
	}
	defer m.storeLearned(ctx)
	f := refusedFamily(refused)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.refuseSlots(f, requestedSlots(it, f), time.Now())
}

// learnFromAssign records the limit that EC2 named when it refused more slots on an ENI
// with n of them, so that a new ENI of a type with guessed limits does not exceed it.
// The caller holds m.mu.
func (m *Manager) learnFromAssign(f Family, n int, now time.Time) {
	if guessed(m.limits) && m.learned.slots(m.limits, f, n+1, now) > n {
		if m.learned.newENISlots == nil {
			m.learned.newENISlots = map[Family]refusal{}
		}
		m.learned.newENISlots[f] = m.learned.newENISlots[f].next(n, now, cardRefusalFirst, cardRefusalMost)
	}
}

// learnNoPrefixes records that a type with guessed limits does not support delegated
// prefixes, if EC2 refused a number of prefixes for this reason. It reports whether EC2
// did.
func (m *Manager) learnNoPrefixes(ctx context.Context, prefixes int, refused error) bool {
	defer m.storeLearned(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if prefixes == 0 || !guessed(m.limits) || codeOf(refused) != "UnsupportedOperation" {
		return false
	}
	m.learned.noPrefixes = true
	m.learned.lessons++
	return true
}

// refusedFamily returns the family of the slots that EC2 refused.
func refusedFamily(refused error) Family {
	if codeOf(refused) == "Ipv6AddressLimitExceeded" {
		return IPv6
	}
	return IPv4
}

// codeOf returns EC2's error code, or "" if the error has none.
func codeOf(err error) string {
	var op *OpError
	if errors.As(err, &op) {
		return op.Code
	}
	return ""
}
