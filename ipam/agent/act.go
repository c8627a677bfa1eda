// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// decide calls the policy for one card and starts its actions.
func (l *loop) decide(card int, v ipam.View, wake *earliest) {
	if l.families[0] != ipam.IPv4 {
		return
	}
	s := l.snapshot(card, v)
	d := l.plan(s)
	sup := s.Supply()
	usable := sup.Free()
	if card == 0 && !l.servable && usable+sup.Unit*growth(d) < 1 {
		// The node becomes ready when an address is allocatable, so even a policy
		// without warm addresses gets a first one.
		s.Demand.Waiting = max(1, s.Demand.Waiting)
		d = l.plan(s)
	}
	was := l.decided[card]
	l.memory[card], l.decided[card] = d.Memory, d
	if d.Next > 0 {
		wake.add(v.At.Add(d.Next), v.At)
	}
	if was.Explanation.Rule() != d.Explanation.Rule() {
		l.log.Debug("decision", "card", card, "short", d.Short, "over", d.Over, "reason", d.Explanation.String(), "capped", d.Capped.String())
	}
	grow := l.burst.over(v.At, wake)
	for _, a := range d.Actions {
		if grows(a.Op) && !grow {
			continue
		}
		// Several calls that grow the pool are under way at the same time only if pods
		// need more addresses than those that are free or on their way.
		busy := a.ENI != "" && l.busy(a.ENI)
		started := l.act(card, a, v, s.Demand.Pending() > usable)
		if grows(a.Op) && (started || busy) {
			usable += sup.Unit * a.N // if the ENI is busy, the call follows the present one
		}
		if started {
			l.log.Info("action", "op", a.Op, "card", card, "eni", a.ENI, "slots", a.N, "reason", a.Explanation.String())
		}
	}
}

// growth returns the number of slots that a decision adds.
func growth(d warmpool.Decision) (slots int) {
	for _, a := range d.Actions {
		if grows(a.Op) {
			slots += a.N
		}
	}
	return slots
}

func grows(op warmpool.Op) bool { return op == warmpool.OpAssign || op == warmpool.OpCreate }

// plan returns the decision of the configured policy for a snapshot.
func (l *loop) plan(s warmpool.Snapshot) warmpool.Decision { return warmpool.Plan(l.policy, s) }

// act starts an action and reports whether it did. It does not start an action
// while the same kind backs off, or while one of the same kind is under way. If
// urgent is set, several of those that grow the pool may be under way, each on
// another ENI.
func (l *loop) act(card int, a warmpool.Action, v ipam.View, urgent bool) bool {
	k := key{card: card, family: l.families[0]}
	var start func() bool
	switch a.Op {
	case warmpool.OpAssign:
		k.kind = kindAssign
		start = func() bool { return l.assign(k, a.ENI, a.N) }
	case warmpool.OpCreate:
		k.kind = kindCreate
		start = func() bool { return l.create(k, a.N) }
	case warmpool.OpUnassign:
		k.kind = kindUnassign
		start = func() bool { return l.unassign(k, a.ENI, idleBlocks(v, a.ENI, k.family, a.N)) }
	case warmpool.OpDelete:
		k.kind = kindDelete
		start = func() bool { return l.drainENI(k, a.ENI) }
	default:
		l.log.Error("unknown action", "op", a.Op)
		return false
	}
	may := l.ready(k, v.At) || urgent && grows(a.Op) && !l.backsOff(k, v.At)
	return may && (a.ENI == "" || !l.busy(a.ENI)) && start()
}

// assign assigns more blocks to an ENI. The link and the pool follow when the
// provider has answered.
func (l *loop) assign(k key, eni string, slots int) bool {
	if l.links[eni] == nil || slots <= 0 {
		return false
	}
	l.start(k, task{eni: eni, slots: slots}, func(ctx context.Context) func() {
		blocks, err := l.cfg.Provider.Assign(ctx, AssignInput{ENI: eni, Family: k.family, Slots: slots})
		return func() {
			l.subnetUntil = time.Time{} // the call has changed the subnet's counts
			ln := l.links[eni]
			if !l.noteFull(ln, err) {
				l.noteOutcome(k, eni, err)
			}
			if ln == nil || len(blocks) == 0 {
				return
			}
			e := ln.ENI
			e.Blocks = slices.Clone(e.Blocks)
			for _, b := range blocks {
				if !slices.Contains(e.Blocks, b) {
					e.Blocks = append(e.Blocks, b)
				}
			}
			l.setLink(e, nil)
			ln.assignedAt = time.Now()
		}
	})
	return true
}

// noteFull reports whether err means that an ENI gets no more blocks, because EC2 refuses
// more on it or its subnet is full, and starts a back-off for that ENI alone: others can
// still grow, and a new one can be in another subnet.
func (l *loop) noteFull(ln *link, err error) bool {
	if err == nil || ln == nil {
		return false
	}
	now := time.Now()
	switch reason, _ := explain(err); reason {
	case ipam.ReasonSlotLimit:
		l.needObservation(now) // the ENI may have more blocks than the agent knows
	case ipam.ReasonSubnetFull, ipam.ReasonNoFreePrefix:
	default:
		return false
	}
	ln.full.fail(err, l.began, now, l.rand())
	if reason, after := explain(err); reason == ipam.ReasonNoFreePrefix && after > 0 {
		ln.full.until = now.Add(after) // the provider then assigns something else than prefixes
	}
	l.log.Warn("ENI takes no more blocks", "eni", ln.ID, "retryIn", ln.full.until.Sub(now), "err", err)
	return true
}

// create creates an ENI. The link and the pool follow when the provider has
// answered.
func (l *loop) create(k key, slots int) bool {
	in := CreateInput{Card: k.card, Slots: slots, Families: l.families}
	l.start(k, task{slots: slots}, func(ctx context.Context) func() {
		e, err := l.cfg.Provider.CreateENI(ctx, in)
		return func() {
			l.subnetUntil = time.Time{}
			l.noteOutcome(k, e.ID, err)
			if err != nil {
				l.noteNoPrefix(k.card, err)
				return
			}
			// An observation during the call may have shown the ENI as not usable yet.
			l.foreign = slices.DeleteFunc(l.foreign, func(f ENI) bool { return f.ID == e.ID })
			l.setLink(e, l.cfg.Pool.View().ENIs)
			if ln := l.links[e.ID]; ln != nil {
				ln.assignedAt = time.Now()
			}
		}
	})
	return true
}

// noteNoPrefix ends the back-off of the ENIs of a card that wait for a prefix elsewhere, if
// err means that there is none: the provider then assigns single addresses to them.
func (l *loop) noteNoPrefix(card int, err error) {
	if reason, _ := explain(err); reason != ipam.ReasonNoFreePrefix {
		return
	}
	for _, ln := range l.links {
		if ln.Card == card && ln.full.reason == ipam.ReasonNoFreePrefix {
			ln.full = backoff{}
		}
	}
}

// idleBlocks returns up to n blocks of an ENI without used or cooling addresses,
// the last ones first.
func idleBlocks(v ipam.View, eni string, f ipam.Family, n int) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range v.ENIs {
		if e.ID != eni {
			continue
		}
		for _, b := range slices.Backward(e.Blocks) {
			idle := b.Used+b.Cooling == 0 && !b.Draining && !b.Doubted && ipam.FamilyOf(b.Prefix.Addr()) == f
			if idle && len(out) < n {
				out = append(out, b.Prefix)
			}
		}
	}
	return out
}

// makeRoom sets the outlook of a card before addresses are drained. A limit that the card had
// reached is then no reason to refuse a request that comes before the end of this turn.
func (l *loop) makeRoom(card int) {
	for _, f := range l.families {
		l.cfg.Pool.SetOutlook(card, f, makingRoom)
	}
}

// unassign drains blocks in the pool and unassigns them. When the provider has
// answered, they are removed from the pool and from the link.
func (l *loop) unassign(k key, eni string, blocks []netip.Prefix) bool {
	if len(blocks) == 0 {
		return false
	}
	l.makeRoom(k.card)
	if err := l.cfg.Pool.DrainBlocks(blocks...); err != nil {
		if !errors.Is(err, ipam.ErrInUse) { // otherwise a pod got an address first
			l.logFailure("drain blocks", err)
		}
		return false
	}
	l.start(k, task{eni: eni, slots: len(blocks)}, func(ctx context.Context) func() {
		err := l.cfg.Provider.Unassign(ctx, eni, blocks)
		return func() {
			l.noteOutcome(k, eni, err)
			if err != nil {
				return
			}
			l.logFailure("remove blocks", l.cfg.Pool.RemoveBlocks(blocks...))
			if ln := l.links[eni]; ln != nil {
				e := ln.ENI
				e.Blocks = slices.DeleteFunc(slices.Clone(e.Blocks), func(p netip.Prefix) bool { return slices.Contains(blocks, p) })
				l.setLink(e, nil)
			}
		}
	})
	return true
}

// drainENI drains an ENI and starts to delete it. If that fails, resume tries
// again.
func (l *loop) drainENI(k key, eni string) bool {
	if ln := l.links[eni]; ln == nil || ln.Primary {
		return false
	}
	l.makeRoom(k.card)
	if err := l.cfg.Pool.DrainENI(eni); err != nil {
		if !errors.Is(err, ipam.ErrInUse) {
			l.logFailure("drain ENI", err)
		}
		return false
	}
	l.remove(k, eni, l.cfg.Provider.DeleteENI)
	return true
}

// remove removes an ENI: first its link, then the ENI itself with del, if that
// is not nil, and then its entry in the pool.
func (l *loop) remove(k key, eni string, del func(context.Context, string) error) {
	if l.linking(eni) {
		return // resume tries again when the work on the link has ended
	}
	l.start(k, task{eni: eni}, func(ctx context.Context) func() {
		err := l.cfg.Links.Remove(ctx, eni)
		if err != nil {
			err = &linkError{eni, err}
		} else if del != nil {
			err = del(ctx, eni)
		}
		return func() {
			l.noteOutcome(k, eni, err)
			if err != nil {
				return
			}
			l.logFailure("remove ENI", l.cfg.Pool.RemoveENI(eni))
			delete(l.links, eni)
			delete(l.gone, eni)
			for other := range l.backoffs {
				// The instance has room for another ENI.
				if other.kind == kindCreate && other.card == k.card {
					delete(l.backoffs, other)
				}
			}
		}
	})
}

// resume continues to remove draining ENIs and blocks, including those that were
// drained before a restart.
func (l *loop) resume(v ipam.View) {
	for _, n := range v.ENIs {
		k := key{kindDelete, n.Card, l.families[0]}
		switch {
		case l.busy(n.ID):
		case l.gone[n.ID] && l.ready(k, v.At):
			l.remove(k, n.ID, nil)
		case n.Draining && l.ready(k, v.At):
			l.remove(k, n.ID, l.cfg.Provider.DeleteENI)
		case !n.Draining:
			l.resumeBlocks(n, v.At)
		}
	}
}

func (l *loop) resumeBlocks(n ipam.ENIView, now time.Time) {
	for _, f := range l.families {
		var blocks []netip.Prefix
		for _, b := range n.Blocks {
			if b.Draining && ipam.FamilyOf(b.Prefix.Addr()) == f {
				blocks = append(blocks, b.Prefix)
			}
		}
		k := key{kindUnassign, n.Card, f}
		if len(blocks) > 0 && l.ready(k, now) && !l.busy(n.ID) && !l.gone[n.ID] {
			l.unassign(k, n.ID, blocks)
		}
	}
}

// supplyIPv6 assigns one IPv6 prefix, which never runs out of addresses. With
// both families, every ENI gets one, so that both addresses of a pod are on the
// same link. With IPv6 alone, one ENI of the card gets one.
func (l *loop) supplyIPv6(card int, v ipam.View) {
	if !slices.Contains(l.families, ipam.IPv6) {
		return
	}
	k := key{kindAssign, card, ipam.IPv6}
	for _, n := range v.ENIs {
		ln := l.links[n.ID]
		if n.Card != card || n.Draining || ln == nil {
			continue
		}
		has := slices.ContainsFunc(ln.Blocks, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if !has && l.ready(k, v.At) && !l.busy(n.ID) && l.assign(k, n.ID, 1) {
			l.log.Info("action", "op", kindAssign, "card", card, "eni", n.ID, "slots", 1, "reason", "the ENI has no IPv6 prefix")
		}
		if len(l.families) == 1 {
			return
		}
	}
}
