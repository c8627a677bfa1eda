// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// ProvisionInput describes the ENI to make.
type ProvisionInput struct {
	// Card is the network card index.
	Card int
	// Slots is how many IPv4 slots to fill at once: secondary addresses, or
	// /28 prefixes if Prefixes is set. More than the type allows means all.
	Slots int
	// Prefixes asks for prefixes.
	Prefixes bool
	// Singles is how many secondary addresses to assign instead if no subnet
	// has a free prefix; 0 means to fail with ErrNoFreePrefix.
	Singles int
	// Slots6 is how many /80 prefixes to delegate; 1 is enough for a node.
	Slots6 int
	// Kind is the kind of ENI. Optional; default KindInterface.
	Kind Kind
}

// Provision makes an ENI, attaches it, and waits until it is there: three calls
// to EC2 when nothing goes wrong. If an earlier call left an ENI of the same kind on
// the way to the same card, that one is finished and no other made.
//
// When a step fails for good, what was done is undone before it returns. When
// EC2 does not answer, or throttles for too long, or ctx ends, the operation
// stays in the journal, and the next Provision or Resume goes on with it.
func (m *Manager) Provision(ctx context.Context, in ProvisionInput) (ENI, error) {
	if err := m.permit(OpProvision, "", false); err != nil {
		return ENI{}, err
	}
	if err := m.fresh(ctx); err != nil {
		return ENI{}, err
	}
	if in.Kind == "" {
		in.Kind = KindInterface
	}
	if left, release, ok := m.unfinished(in); ok {
		var e ENI
		left, err := m.look(ctx, left)
		if err == nil {
			e, err = m.finish(ctx, left)
		}
		release()
		if err != nil || e.ID != "" {
			return e, err
		}
	}
	limits, err := m.Limits(ctx)
	if err != nil {
		return ENI{}, err
	}
	subnets, err := m.candidates(ctx)
	if err != nil {
		return ENI{}, err
	}
	it, release, err := m.reserve(in, limits)
	if err != nil {
		return ENI{}, err
	}
	defer release()
	it, err = m.create(ctx, it, m.wanted(in, limits), subnets)
	if err != nil {
		return ENI{}, err
	}
	return m.finish(ctx, it)
}

// finish drives a provision intent to its end and returns the ENI: the zero ENI
// if what was left of an earlier attempt has been cleared away.
func (m *Manager) finish(ctx context.Context, it Intent) (ENI, error) {
	it, err := m.drive(ctx, it)
	if err != nil || it.Undo {
		return ENI{}, err
	}
	e, _ := m.Inventory().ENI(it.ENI)
	return e, nil
}

// fresh makes sure of an inventory new enough to choose a place by. One from
// before EC2 could show an ENI that stood in the way is not.
func (m *Manager) fresh(ctx context.Context) error {
	m.mu.Lock()
	young := m.looked && time.Since(m.inv.EC2At) < inventoryAge
	for _, at := range m.others {
		shows := at.Add(m.cfg.Lag)
		young = young && (m.inv.EC2At.After(shows) || time.Now().Before(shows))
	}
	m.mu.Unlock()
	if young {
		return nil
	}
	inv, err := m.discover(ctx, true)
	if err != nil {
		return err
	}
	return inv.EC2Err
}

// unfinished finds an ENI of the same kind that is on its way to the same card
// since an earlier call.
func (m *Manager) unfinished(want ProvisionInput) (Intent, func(), bool) {
	for _, in := range m.openIntents() {
		if in.Op != OpProvision || in.Card != want.Card || in.Kind != want.Kind {
			continue
		}
		if release, ok := m.hold(in.ID); ok {
			return in, release, true
		}
	}
	return Intent{}, nil, false
}

// wanted is what to ask the ladder for.
func (m *Manager) wanted(in ProvisionInput, l Limits) want {
	if in.Prefixes && l.Nitro {
		return want{Prefixes: min(in.Slots, l.SlotsPerENI()), Singles: min(in.Singles, l.SlotsPerENI())}
	}
	return want{Singles: min(max(in.Slots, 0), l.SlotsPerENI())}
}

// reserve chooses a place for an ENI and claims it, all under one lock, so that
// no other Provision takes it.
func (m *Manager) reserve(in ProvisionInput, l Limits) (Intent, func(), error) {
	it := m.start(OpProvision)
	it.Kind, it.Prefixes6 = in.Kind, in.Slots6
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := cardLimit(l, m.cfg, in.Card, m.refused, it.Start)
	p, ok := freePlace(in.Card, limit, m.takenLocked(nil))
	if !ok {
		full := &OpError{Op: string(OpProvision), Why: ReasonENILimit, Err: fmt.Errorf("card %d takes %d ENIs", in.Card, max(limit, 0))}
		if byType := cardLimit(l, m.cfg, in.Card, nil, it.Start); limit < byType {
			full.After = m.refused[in.Card].until.Sub(it.Start)
			full.Err = fmt.Errorf("card %d takes %d ENIs by its type, and EC2 refused more than %d", in.Card, byType, max(limit, 0))
		}
		return Intent{}, nil, full
	}
	it.Card, it.Device = p.Card, p.Device
	m.intents[it.ID] = it
	m.busy[it.ID] = true
	return it, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, it.ID)
	}, nil
}

// create climbs the ladder of subnets until EC2 makes an ENI.
func (m *Manager) create(ctx context.Context, it Intent, w want, subnets []string) (Intent, error) {
	rungs := m.rungs(subnets, w)
	if w == (want{}) {
		rungs = m.bare(subnets)
	}
	err := m.resting(subnets)
	for _, r := range rungs {
		it.Token, it.Subnet, it.Addrs, it.Prefixes = m.cfg.NewToken(), r.Subnet, r.Singles, r.Prefixes
		it.Groups = m.groupsFor(r.Subnet, it.Kind)
		it.Created = time.Now().Truncate(time.Second)
		it, err = m.createOnce(ctx, it, false)
		if err == nil {
			m.served(r)
			return it, nil
		}
		why := reasonOf(err)
		if it.Token != "" || why != ReasonSubnetFull && why != ReasonNoFreePrefix {
			break
		}
		m.failed(r, why)
	}
	if it.Token != "" {
		return it, err // an ENI may be there: the journal keeps the intent
	}
	return it, errors.Join(err, m.forget(ctx, it.ID))
}

// createOnce makes the create call of an intent and journals its answer. An
// intent that has certainly made no ENI comes back without its token. If the
// call may have been made before, a refusal for want of permission does not tell,
// since EC2 checks that before it looks at the token.
func (m *Manager) createOnce(ctx context.Context, it Intent, before bool) (Intent, error) {
	if err := m.put(ctx, it); err != nil {
		if !before {
			it.Token = ""
		}
		return it, err
	}
	made, err := m.ec2.createENI(ctx, it, m.tags(it))
	if err != nil {
		why := reasonOf(err)
		unsure := lostAnswer(err) || why == ReasonThrottled || before && why == ReasonUnauthorized
		if !unsure {
			it.Token = ""
		}
		return it, err
	}
	it.ENI, it.Made, it.Changed = made.ID, &made, time.Now()
	return it, m.put(ctx, it)
}

// rungs lists the attempts that make sense now.
func (m *Manager) rungs(subnets []string, w want) []rung {
	m.mu.Lock()
	defer m.mu.Unlock()
	return climb(stick(subnets, m.last), w, m.rests, time.Now())
}

// bare is one attempt a subnet for an ENI with no IPv4 slots.
func (m *Manager) bare(subnets []string) []rung {
	out := make([]rung, len(subnets))
	for i, s := range subnets {
		out[i] = rung{Subnet: s}
	}
	return out
}

func (m *Manager) served(r rung) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = r.Subnet
}

func (m *Manager) failed(r rung, why Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fell(m.rests, r, why, time.Now())
}

// resting is the error for when every subnet is at rest.
func (m *Manager) resting(subnets []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &OpError{Op: string(OpProvision), Why: ReasonSubnetFull, Err: errors.New("no subnet to try")}
	now := time.Now()
	for _, s := range subnets {
		r := m.rests[s]
		until := r.all
		if !now.Before(until) {
			until, e.Why = r.prefixes, ReasonNoFreePrefix
		}
		if d := until.Sub(now); d > 0 && (e.After == 0 || d < e.After) {
			e.After = d
			e.Err = fmt.Errorf("%d subnets were full moments ago", len(subnets))
		}
	}
	return e
}

// tags are those of a new ENI. The creation time is part of the intent, since a
// repeated create call must not differ.
func (m *Manager) tags(it Intent) map[string]string {
	out := maps.Clone(m.cfg.Tags)
	if out == nil {
		out = map[string]string{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out[TagOwner] = m.cfg.Owner
	out[TagInstance] = m.inv.Instance.ID
	out[TagCreated] = it.Created.UTC().Format(time.RFC3339)
	if m.cfg.Cluster != "" {
		out[TagCluster] = m.cfg.Cluster
	}
	return out
}

func (m *Manager) groupsFor(subnet string, kind Kind) []string {
	m.mu.Lock()
	inst := m.inv.Instance
	m.mu.Unlock()
	if g := m.cfg.Groups.Groups(inst, subnet, kind); g != nil {
		return g
	}
	return inst.Groups
}

// subnetsAge is how long a listing of subnets is good: what is full shows in
// the answer to the next create call anyway.
const subnetsAge = 10 * time.Minute

// candidates lists the IDs of the subnets to use, best first.
func (m *Manager) candidates(ctx context.Context) ([]string, error) {
	m.mu.Lock()
	inst, known, listed := m.inv.Instance, m.subnets, m.listed
	m.mu.Unlock()
	q, ask := m.cfg.Subnets.Query(inst)
	if !ask {
		known = []Subnet{inst.PrimarySubnet}
	} else if time.Since(listed) > subnetsAge {
		var err error
		if known, err = m.ec2.describeSubnets(ctx, q); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.subnets, m.listed = known, time.Now()
		m.mu.Unlock()
	}
	var out, full []string
	for _, s := range m.cfg.Subnets.Order(inst, known) {
		if s.Free == 0 && s.Prefix.IsValid() {
			full = append(full, s.ID) // the last resort: it may have changed
			continue
		}
		out = append(out, s.ID)
	}
	out = append(out, full...)
	if len(out) == 0 {
		return nil, &OpError{
			Op: string(OpProvision), Why: ReasonNotFound, Err: fmt.Errorf("none of %d subnets in %s is selected", len(known), inst.Zone),
		}
	}
	return out, nil
}
