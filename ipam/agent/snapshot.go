// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"slices"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// snapshot returns the state of one card for the policy.
func (l *loop) snapshot(card int, v ipam.View) warmpool.Snapshot {
	family := l.families[0]
	s := warmpool.Snapshot{Now: v.At, Card: card, Limits: l.limits[card], Memory: l.memory[card]}
	if s.Limits.MaxPods > 0 {
		// Pods with an ENI of their own count as pods of the node, but need no address. Zero
		// would mean that there is no maximum.
		s.Limits.MaxPods = max(1, s.Limits.MaxPods-v.OtherPods)
	}
	devices := map[string]int{}
	for _, e := range l.foreign {
		if e.Card == card {
			devices[e.ID] = e.Device
			s.ENIs = append(s.ENIs, warmpool.ENI{ID: e.ID, Primary: e.Primary, NoPods: true})
		}
	}
	for _, n := range v.ENIs {
		if n.Card != card || slices.ContainsFunc(s.ENIs, func(e warmpool.ENI) bool { return e.ID == n.ID }) {
			continue
		}
		devices[n.ID] = n.Device
		s.ENIs = append(s.ENIs, l.countENI(n, family, v))
	}
	slices.SortStableFunc(s.ENIs, func(a, b warmpool.ENI) int { return cmp.Compare(devices[a.ID], devices[b.ID]) })
	for _, t := range l.tasks {
		if t.key == (key{kindCreate, card, family}) {
			s.ENIs = append(s.ENIs, warmpool.ENI{PendingSlots: t.slots})
		}
	}
	for _, w := range v.Waiting {
		if w.Request.Card == card && slices.Contains(w.Request.Families, family) {
			s.Demand.Waiting++
		}
	}
	if card == l.cfg.DemandCard {
		s.Demand.Bound = l.bound
	}
	if l.subnetUntil.After(v.At) {
		s.Subnet = l.subnet
	}
	for _, k := range []kind{kindAssign, kindCreate} {
		b := l.backoffs[key{k, card, family}]
		if b == nil {
			continue
		}
		full := b.reason == ipam.ReasonSubnetFull || b.reason == ipam.ReasonNoFreePrefix
		s.Subnet.Exhausted = s.Subnet.Exhausted || full && b.active(v.At)
	}
	return s
}

// maxLinkFailures is the number of failures in a row after which a link is no
// longer expected to be up soon.
const maxLinkFailures = 3

// countENI counts the slots of one ENI. Free addresses that are draining, doubted
// or on an ENI that was not observed can be neither allocated nor given back, so
// they count as cooling. An ENI counts as NoPods if its link fails while another
// ENI is ready. If no ENI is ready, the cause is probably not the ENI, and a new
// one would fail as well.
func (l *loop) countENI(n ipam.ENIView, family ipam.Family, v ipam.View) warmpool.ENI {
	e := warmpool.ENI{ID: n.ID, NoPods: n.Draining, Age: v.At.Sub(n.Since)}
	ln := l.links[n.ID]
	if ln != nil {
		e.Primary, e.Full = ln.Primary, ln.full.active(v.At)
		for _, p := range ln.Blocks {
			inPool := slices.ContainsFunc(n.Blocks, func(b ipam.BlockView) bool { return b.Prefix == p })
			if !inPool && ipam.FamilyOf(p.Addr()) == family {
				e.PendingSlots++
			}
		}
	}
	if ln != nil && ln.backoff.failures >= maxLinkFailures {
		ready := func(o ipam.ENIView) bool { return o.Ready }
		e.NoPods = e.NoPods || slices.ContainsFunc(v.ENIs, ready)
	}
	for _, t := range l.tasks {
		if t.key == (key{kindAssign, n.Card, family}) && t.eni == n.ID {
			e.PendingSlots += t.slots
		}
	}
	for _, b := range n.Blocks {
		if ipam.FamilyOf(b.Prefix.Addr()) != family {
			continue
		}
		cooling := b.Cooling
		if b.Draining || b.Doubted || ln == nil {
			cooling += b.Free
		}
		e.Slots++
		e.Addresses += b.Used + b.Cooling + b.Free
		e.Assigned += b.Used
		e.Cooling += cooling
		e.AssignedPerSlot = append(e.AssignedPerSlot, b.Used)
		e.CoolingPerSlot = append(e.CoolingPerSlot, cooling)
	}
	return e
}
