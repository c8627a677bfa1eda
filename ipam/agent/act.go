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

// decide asks the policy about one card and starts what it wants.
func (l *loop) decide(card int, v ipam.View, wake *earliest) {
	if l.families[0] != ipam.IPv4 {
		return
	}
	d := l.plan(l.snapshot(card, v))
	was := l.decided[card]
	l.memory[card], l.decided[card] = d.Memory, d
	if d.Next > 0 {
		wake.add(v.At.Add(d.Next), v.At)
	}
	if was.Reason.Rule() != d.Reason.Rule() {
		l.log.Debug("decision", "card", card, "short", d.Short, "over", d.Over, "reason", d.Reason.String(), "capped", d.Capped.String())
	}
	for _, a := range d.Actions {
		if l.act(card, a, v) {
			l.log.Info("action", "op", a.Op, "card", card, "eni", a.ENI, "slots", a.N, "reason", a.Reason.String())
		}
	}
}

// plan decides as the policy of the configuration does on a node.
func (a *Agent) plan(s warmpool.Snapshot) warmpool.Decision { return warmpool.Plan(a.policy, s) }

// act starts an action unless one of its kind is under way or has to wait.
func (l *loop) act(card int, a warmpool.Action, v ipam.View) bool {
	k := key{kind(a.Op), card, l.families[0]}
	if !l.ready(k, v.At) || a.ENI != "" && l.busy(a.ENI) {
		return false
	}
	switch a.Op {
	case warmpool.OpAssign:
		return l.assign(k, a.ENI, a.N)
	case warmpool.OpCreate:
		l.create(k, a.N)
		return true
	case warmpool.OpUnassign:
		return l.unassign(k, a.ENI, idleBlocks(v, a.ENI, k.family, a.N))
	case warmpool.OpDelete:
		return l.drainENI(k, a.ENI)
	default:
		l.log.Error("unknown action", "op", a.Op)
		return false
	}
}

// assign puts more blocks on an ENI: Provider, then the link, then the pool.
func (l *loop) assign(k key, eni string, slots int) bool {
	if l.links[eni] == nil || slots <= 0 {
		return false
	}
	l.start(k, task{eni: eni, slots: slots}, func(ctx context.Context) func() {
		blocks, err := l.cfg.Provider.Assign(ctx, AssignInput{ENI: eni, Family: k.family, Slots: slots})
		return func() {
			l.subnetUntil = time.Time{} // what it counted is no longer true
			ln := l.links[eni]
			if !l.full(ln, err) {
				l.outcome(k, eni, err)
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
			l.setLink(e)
			ln.grown = time.Now()
		}
	})
	return true
}

// full notes that EC2 refused to put more blocks on an ENI, and reports whether
// err says so. It concerns that ENI alone, so that growth goes on elsewhere.
func (l *loop) full(ln *link, err error) bool {
	if reason, _ := explain(err); err == nil || ln == nil || reason != ipam.ReasonSlotLimit {
		return false
	}
	now := time.Now()
	ln.full.fail(err, now, l.rand())
	l.want(now) // the ENI may have more blocks than are known
	l.log.Warn("ENI takes no more blocks", "eni", ln.ID, "retryIn", ln.full.until.Sub(now), "err", err)
	return true
}

// create adds an ENI: Provider, then the link, then the pool.
func (l *loop) create(k key, slots int) {
	in := CreateInput{Card: k.card, Slots: slots, Families: l.families}
	l.start(k, task{slots: slots}, func(ctx context.Context) func() {
		e, err := l.cfg.Provider.CreateENI(ctx, in)
		return func() {
			l.subnetUntil = time.Time{}
			if l.outcome(k, e.ID, err); err == nil {
				l.setLink(e)
				if ln := l.links[e.ID]; ln != nil {
					ln.grown = time.Now()
				}
			}
		}
	})
}

// idleBlocks picks n blocks of an ENI that nobody uses, the last ones first.
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

// unassign gives blocks back: out of the pool's hands, which is remembered,
// then Provider, then the link, then forgotten.
func (l *loop) unassign(k key, eni string, blocks []netip.Prefix) bool {
	if len(blocks) == 0 {
		return false
	}
	if err := l.cfg.Pool.DrainBlocks(blocks...); err != nil {
		if !errors.Is(err, ipam.ErrInUse) { // else somebody was quicker
			l.try("drain blocks", err)
		}
		return false
	}
	l.start(k, task{eni: eni, slots: len(blocks)}, func(ctx context.Context) func() {
		err := l.cfg.Provider.Unassign(ctx, eni, blocks)
		return func() {
			if l.outcome(k, eni, err); err != nil {
				return
			}
			l.try("remove blocks", l.cfg.Pool.RemoveBlocks(blocks...))
			if ln := l.links[eni]; ln != nil {
				e := ln.ENI
				e.Blocks = slices.DeleteFunc(slices.Clone(e.Blocks), func(p netip.Prefix) bool { return slices.Contains(blocks, p) })
				l.setLink(e)
			}
		}
	})
	return true
}

// drainENI begins to give an ENI back, and resume goes on with it.
func (l *loop) drainENI(k key, eni string) bool {
	if ln := l.links[eni]; ln == nil || ln.Primary {
		return false
	}
	if err := l.cfg.Pool.DrainENI(eni); err != nil {
		if !errors.Is(err, ipam.ErrInUse) {
			l.try("drain ENI", err)
		}
		return false
	}
	l.remove(k, eni, l.cfg.Provider.DeleteENI)
	return true
}

// remove takes an ENI away: its link, then what del does, then the pool.
func (l *loop) remove(k key, eni string, del func(context.Context, string) error) {
	if t, ok := l.tasks[key{kind: kindLink}]; ok && t.eni == eni {
		return // resume comes back when the link is let go
	}
	l.start(k, task{eni: eni}, func(ctx context.Context) func() {
		err := l.cfg.Links.Remove(ctx, eni)
		if err != nil {
			err = &linkError{eni, err}
		} else if del != nil {
			err = del(ctx, eni)
		}
		return func() {
			if l.outcome(k, eni, err); err != nil {
				return
			}
			l.try("remove ENI", l.cfg.Pool.RemoveENI(eni))
			delete(l.links, eni)
			delete(l.gone, eni)
			for other := range l.backoffs {
				// There is room again.
				if other.kind == kindCreate && other.card == k.card {
					delete(l.backoffs, other)
				}
			}
		}
	})
}

// resume goes on with what was begun, also before a restart.
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

// supplyIPv6 gives ENIs their one IPv6 prefix, which lasts for ever. With IPv4
// beside it every ENI gets one, so that both addresses of a pod are on the
// same link; alone, one for the card will do.
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
