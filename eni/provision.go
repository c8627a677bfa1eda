// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// ProvisionInput describes the ENI to create.
type ProvisionInput struct {
	// Card is the network card index.
	Card int
	// Slots is the number of IPv4 slots to fill: secondary addresses, or /28
	// prefixes if Prefixes is set. It is reduced to the limit of the instance
	// type.
	Slots int
	// Prefixes requests prefixes instead of secondary addresses.
	Prefixes bool
	// Singles is the number of secondary addresses to assign instead if no subnet
	// has a free prefix. 0 means that Provision then fails with ErrNoFreePrefix.
	Singles int
	// PodsOnPrimary says that pods get addresses of the primary ENI too. If no subnet has
	// a free prefix, Provision fails with ErrNoFreePrefix, in spite of Singles, as long as
	// an ENI for pods on the card has a free slot that Assign can fill.
	PodsOnPrimary bool
	// Slots6 is the number of /80 prefixes to delegate. 1 is enough for a node.
	Slots6 int
	// Kind is the kind of ENI. Optional; default KindInterface.
	Kind Kind
	// OnePod says that one pod gets the whole ENI. It is tagged with TagPod, and other
	// pods get no addresses of it.
	OnePod bool
	// Addrs6 is the number of IPv6 addresses.
	Addrs6 int
	// Groups are the ENI's security groups. Optional; default the groups that the
	// GroupSelector returns.
	Groups []string
}

// slots returns the fields that fitLearned can reduce.
func (in ProvisionInput) slots() any {
	return struct {
		prefixes               bool
		slots, singles, slots6 int
	}{in.Prefixes, in.Slots, in.Singles, in.Slots6}
}

// Provision creates an ENI, attaches it, and waits until it is attached. Without
// failures it makes three calls to EC2. If an earlier call left an unfinished ENI
// of the same kind for the same card, Provision finishes that one instead of
// creating another, unless one of the two is for OnePod. Several calls of Provision may be under way at the same time: each
// has its own device index and client token.
//
// If a step fails permanently, Provision undoes the earlier steps before it
// returns. If EC2 refuses to attach the ENI because the instance type takes fewer
// slots on it, Provision remembers this and creates one with fewer slots. If EC2 does
// not answer or throttles for too long, or if ctx ends, the operation stays in the
// journal, and the next Provision or Resume continues it.
func (m *Manager) Provision(ctx context.Context, in ProvisionInput) (ENI, error) {
	if err := m.permit(OpProvision, "", false); err != nil {
		return ENI{}, err
	}
	if err := m.ensureRecent(ctx); err != nil {
		return ENI{}, err
	}
	if in.Kind == "" {
		in.Kind = KindInterface
	}
	var e ENI
	err := m.withRest(restKey{op: OpProvision, kind: in.Kind}, func() (err error) {
		e, err = m.provision(ctx, in)
		return err
	})
	return e, err
}

// provision implements Provision, except for the checks at its start.
func (m *Manager) provision(ctx context.Context, in ProvisionInput) (ENI, error) {
	if earlier, release, ok := m.unfinishedProvision(in); ok {
		e, again, err := m.finishEarlier(ctx, earlier)
		release()
		if !again && (err != nil || e.ID != "") {
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
	for try := 1; ; try++ {
		e, again, err := m.provisionOnce(ctx, in, limits, subnets)
		// A full subnet costs an ENI with prefixes and one with addresses.
		if !again || try >= maxRefusedENIs+2*len(subnets) {
			return e, err
		}
	}
}

// finishEarlier finishes the ENI of an unfinished provision intent. again says that EC2
// refused to attach that ENI for a reason that another ENI may avoid, as provisionOnce
// does.
func (m *Manager) finishEarlier(ctx context.Context, it Intent) (_ ENI, again bool, _ error) {
	it, err := m.refresh(ctx, it)
	if err != nil {
		return ENI{}, false, err
	}
	before := m.lessons()
	it, err = m.drive(ctx, it)
	if m.subnetRefused(it, err) || it.Undo && it.Done && ctx.Err() == nil && m.lessons() != before {
		return ENI{}, true, err
	}
	afterUndo(it, err)
	e, err := m.driven(it, err)
	return e, false, err
}

// lessons returns how many refusals of EC2 have lowered a limit.
func (m *Manager) lessons() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.lessons
}

// subnetRefused reports whether EC2 refused to attach the ENI of an intent, which is now
// deleted, because its subnet is full. It remembers the subnet.
func (m *Manager) subnetRefused(it Intent, err error) bool {
	reason := reasonOf(err)
	if !it.Undo || !it.Done || reason != ReasonSubnetFull && reason != ReasonNoFreePrefix {
		return false
	}
	m.recordFailure(attempt{Subnet: it.Subnet, Prefixes: min(it.Prefixes, 1)}, ReasonSubnetFull)
	return true
}

// maxRefusedENIs is how many ENIs Provision creates in a row if EC2 refuses to attach
// them with their slots. Three are enough to find a limit of IPv4 slots, and the others
// for IPv6 slots and prefixes.
const maxRefusedENIs = 5

// provisionOnce creates and attaches one ENI. again says that EC2 created the ENI, but
// refused to attach it because its subnet is full, or with so many slots. The ENI is
// then deleted, and an ENI in another subnet, or one with single addresses or fewer
// slots, may succeed.
func (m *Manager) provisionOnce(ctx context.Context, in ProvisionInput, limits instancetype.Limits, subnets []string) (_ ENI, again bool, _ error) {
	fit := m.fitLearned(in, limits)
	it, release, err := m.reserve(fit, limits)
	if err != nil {
		return ENI{}, false, err
	}
	defer release()
	it, err = m.create(ctx, it, fit, limits, subnets)
	if err != nil {
		return ENI{}, false, err
	}
	it, err = m.drive(ctx, it)
	if m.subnetRefused(it, err) || it.Undo && it.Done && ctx.Err() == nil && m.fitLearned(in, limits).slots() != fit.slots() {
		return ENI{}, true, err
	}
	afterUndo(it, err)
	e, err := m.driven(it, err)
	if err == nil && e.ID == "" {
		err = &OpError{Op: string(OpProvision), ENI: it.ENI, reason: it.Why, Err: errors.New("the new ENI is gone")}
	}
	return e, false, err
}

// fitLearned reduces a request to what refusals of EC2 have shown to be possible.
func (m *Manager) fitLearned(in ProvisionInput, l instancetype.Limits) ProvisionInput {
	in.Slots, in.Singles = min(in.Slots, l.SlotsPerENI()), min(in.Singles, l.SlotsPerENI())
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.learned.fit(in, l, time.Now())
}

// driven returns the ENI of a provision intent that drive has finished.
func (m *Manager) driven(it Intent, err error) (ENI, error) {
	if err != nil || it.Undo {
		return ENI{}, err
	}
	e, _ := m.Inventory().ENI(it.ENI)
	return e, nil
}

// ensureRecent calls Discover if the inventory is too old to choose a place. It is
// too old if it may lack an ENI of another program that took a place before.
func (m *Manager) ensureRecent(ctx context.Context) error {
	m.mu.Lock()
	recent := m.everDiscovered && time.Since(m.inv.EC2At) < inventoryAge
	for _, at := range m.foreignPlaces {
		shown := at.Add(m.cfg.Lag)
		recent = recent && (m.inv.EC2At.After(shown) || time.Now().Before(shown))
	}
	m.mu.Unlock()
	if recent {
		return nil
	}
	inv, err := m.discover(ctx, true)
	if err != nil {
		return err
	}
	return inv.EC2Err
}

// unfinishedProvision finds and claims an unfinished intent for an ENI of the same
// kind on the same card.
func (m *Manager) unfinishedProvision(input ProvisionInput) (Intent, func(), bool) {
	for _, in := range m.unfinishedIntents() {
		if in.Op != OpProvision || in.Card != input.Card || in.Kind != input.Kind || in.OnePod || input.OnePod {
			continue
		}
		if release, ok := m.claim(in.ID); ok {
			return in, release, true
		}
	}
	return Intent{}, nil, false
}

// slotRequest returns the IPv4 slots to request for a new ENI.
func (m *Manager) slotRequest(in ProvisionInput, l instancetype.Limits) slotRequest {
	if in.Prefixes && l.Nitro {
		return slotRequest{Prefixes: min(in.Slots, l.SlotsPerENI()), Singles: min(in.Singles, l.SlotsPerENI())}
	}
	return slotRequest{Singles: min(max(in.Slots, 0), l.SlotsPerENI())}
}

// reserve chooses a free place for an ENI and claims it under the same lock, so
// that no concurrent Provision takes it.
func (m *Manager) reserve(in ProvisionInput, l instancetype.Limits) (Intent, func(), error) {
	it := m.newIntent(OpProvision)
	it.Kind, it.Prefixes6, it.Addrs6, it.OnePod = in.Kind, in.Slots6, in.Addrs6, in.OnePod
	it.Groups = in.Groups
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := m.cardLimitLocked(l, in.Card, it.Start)
	p, ok := freePlace(in.Card, limit, m.takenPlacesLocked(nil))
	if !ok {
		full := &OpError{Op: string(OpProvision), reason: ReasonENILimit, Err: fmt.Errorf("card %d takes %d ENIs", in.Card, max(limit, 0))}
		if byType := m.configuredLimitLocked(l, in.Card); limit < byType {
			full.retryAfter = m.cardRefusals[in.Card].until.Sub(it.Start)
			full.Err = fmt.Errorf("card %d takes %d ENIs by its type, but EC2 refused more than %d", in.Card, byType, max(limit, 0))
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

// create makes the attempts at a new ENI in order until EC2 creates one.
func (m *Manager) create(ctx context.Context, it Intent, in ProvisionInput, l instancetype.Limits, subnets []string) (Intent, error) {
	w := m.slotRequest(in, l)
	attempts := m.listAttempts(subnets, w)
	if w == (slotRequest{}) {
		attempts = attemptsWithoutIPv4(subnets)
	}
	err := m.exhaustedError(subnets)
	asked := it.Groups
	for _, a := range attempts {
		if w.Prefixes > 0 && a.Prefixes == 0 {
			if id := m.roomForSingles(l, in); id != "" {
				err = &OpError{Op: string(OpProvision), reason: ReasonNoFreePrefix, Err: fmt.Errorf("%s has free slots for single addresses", id)}
				break
			}
		}
		it.Token, it.Subnet, it.Addrs, it.Prefixes = m.cfg.NewToken(), a.Subnet, a.Singles, a.Prefixes
		if it.Groups = asked; it.Groups == nil {
			it.Groups = m.groupsFor(a.Subnet, it.Kind)
		}
		it.Created = time.Now().Truncate(time.Second)
		it, err = m.createOnce(ctx, it, false)
		if err == nil {
			m.recordSuccess(a)
			return it, nil
		}
		reason := reasonOf(err)
		if it.Token != "" || reason != ReasonSubnetFull && reason != ReasonNoFreePrefix {
			break
		}
		m.recordFailure(a, reason)
	}
	if it.Token != "" {
		return it, err // an ENI may exist, so the journal keeps the intent
	}
	return it, errors.Join(err, m.removeIntent(ctx, it.ID))
}

// createOnce makes the create call of an intent and journals its answer. It clears
// the token of the intent if the call has certainly created no ENI. repeated says
// that an earlier call with the token may have created one. Then a missing
// permission proves nothing, because EC2 checks permissions before the token.
func (m *Manager) createOnce(ctx context.Context, it Intent, repeated bool) (Intent, error) {
	if err := m.putIntent(ctx, it); err != nil {
		if !repeated {
			it.Token = ""
		}
		return it, err
	}
	made, err := m.ec2.createENI(ctx, it, m.tags(it))
	if err != nil {
		reason := reasonOf(err)
		uncertain := lostAnswer(err) || reason == ReasonThrottled || repeated && (reason == ReasonUnauthorized || notNow(err))
		if !uncertain {
			it.Token = ""
		}
		return it, err
	}
	it.ENI, it.Made, it.Changed = made.ID, &made, time.Now()
	return it, m.putIntent(ctx, it)
}

// listAttempts lists the attempts at a request, in the preferred subnet first.
func (m *Manager) listAttempts(subnets []string, w slotRequest) []attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	return listAttempts(preferSubnet(subnets, m.lastSubnet), w, m.exhausted, time.Now())
}

// attemptsWithoutIPv4 lists one attempt for each subnet at an ENI without IPv4
// slots.
func attemptsWithoutIPv4(subnets []string) []attempt {
	out := make([]attempt, len(subnets))
	for i, s := range subnets {
		out[i] = attempt{Subnet: s}
	}
	return out
}

// recordSuccess remembers the subnet of an attempt that EC2 accepted.
func (m *Manager) recordSuccess(a attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastSubnet = a.Subnet
}

// recordFailure remembers that an attempt failed for a reason.
func (m *Manager) recordFailure(a attempt, reason Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	markExhausted(m.exhausted, a, reason, time.Now())
}

// exhaustedError returns the error for the case that all subnets are exhausted.
func (m *Manager) exhaustedError(subnets []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &OpError{Op: string(OpProvision), reason: ReasonSubnetFull, Err: errors.New("no subnet is left to try")}
	now := time.Now()
	for _, s := range subnets {
		r := m.exhausted[s]
		until := r.all
		if !now.Before(until) {
			until, e.reason = r.prefixes, ReasonNoFreePrefix
		}
		if d := until.Sub(now); d > 0 && (e.retryAfter == 0 || d < e.retryAfter) {
			e.retryAfter = d
			e.Err = fmt.Errorf("%d subnets were full at the last attempt", len(subnets))
		}
	}
	return e
}

// ownTags returns the tags of every new ENI: those of the configuration, and those of
// this package. Values that depend on the ENI are empty.
func ownTags(c Config) map[string]string {
	out := maps.Clone(c.Tags)
	if out == nil {
		out = map[string]string{}
	}
	out[TagOwner], out[TagInstance], out[TagCreated] = c.Owner, "", ""
	if c.Cluster != "" {
		out[TagCluster] = c.Cluster
	}
	return out
}

// tags returns the tags of a new ENI. The creation time comes from the intent,
// because a repeated create call must be identical.
func (m *Manager) tags(it Intent) map[string]string {
	out := ownTags(m.cfg)
	out[TagInstance] = m.instance()
	out[TagCreated] = it.Created.UTC().Format(time.RFC3339)
	if it.OnePod {
		out[TagPod] = "true"
	}
	return out
}

// groupsFor returns the security groups of a new ENI.
func (m *Manager) groupsFor(subnet string, kind Kind) []string {
	m.mu.Lock()
	inst, selector := m.inv.Instance, m.placement.groups
	m.mu.Unlock()
	if g := selector.Groups(inst, subnet, kind); g != nil {
		return g
	}
	return inst.Groups
}

// subnetsAge is the maximum age of a listing of subnets. It can be long: if a
// subnet becomes full in between, the next create call in it fails and tells so.
const subnetsAge = 10 * time.Minute

// candidates returns the IDs of the usable subnets, best first.
func (m *Manager) candidates(ctx context.Context) ([]string, error) {
	m.mu.Lock()
	inst, selector := m.inv.Instance, m.placement.subnets
	known, listed, earlier := m.subnets, m.subnetsAt, m.subnetsQuery
	m.mu.Unlock()
	q, ask := selector.Query(inst)
	if !ask {
		known = []Subnet{inst.PrimarySubnet}
	} else if time.Since(listed) > subnetsAge || !reflect.DeepEqual(q, earlier) {
		var err error
		if known, err = m.ec2.describeSubnets(ctx, q); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.subnets, m.subnetsQuery, m.subnetsAt = known, q, time.Now()
		m.mu.Unlock()
	}
	return orderSubnets(inst, selector, known)
}

// orderSubnets returns the IDs of the subnets that the selector allows, best first.
func orderSubnets(inst Instance, selector SubnetSelector, known []Subnet) ([]string, error) {
	var out, full []string
	for _, s := range selector.Order(inst, known) {
		if s.Free == 0 && s.Prefix.IsValid() {
			full = append(full, s.ID) // tried last, since it may have free addresses by now
			continue
		}
		out = append(out, s.ID)
	}
	out = append(out, full...)
	if len(out) == 0 {
		return nil, &OpError{
			Op: string(OpProvision), reason: ReasonNotFound, Err: fmt.Errorf("none of %d subnets in %s is selected", len(known), inst.Zone),
		}
	}
	return out, nil
}
