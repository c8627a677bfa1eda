// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// link is an ENI that pods may use.
type link struct {
	ENI
	// dirty means that the kernel has to be brought to ENI, or verified.
	dirty bool
	// edition counts changes of ENI, to see one that came while the link was
	// worked on.
	edition int
	// grown is when the last blocks were assigned.
	grown   time.Time
	backoff backoff
	// adopted says that the blocks come from an observation, which may show what
	// is no more.
	adopted bool
	// full is EC2's refusal to put more blocks on the ENI. It ends with its
	// time, and when the ENI's blocks change.
	full backoff
}

// setLink makes an ENI known and has its link looked at.
func (l *loop) setLink(e ENI) {
	ln := l.links[e.ID]
	if ln == nil {
		if err := l.addENI(e); err != nil {
			l.try("add ENI", err)
			return
		}
		ln = &link{}
		l.links[e.ID] = ln
	}
	if len(e.Blocks) != len(ln.Blocks) {
		ln.full = backoff{}
	}
	ln.ENI, ln.dirty, ln.backoff.until = e, true, time.Time{}
	ln.edition++
}

// recall keeps up the links of an earlier process until there is an observation.
// Their blocks stay what that process knew, because pods may use them; the pool
// gets none that its journal lacks on that word alone.
func (l *loop) recall() {
	v := l.cfg.Pool.View()
	for _, e := range l.cfg.Known {
		if e.NoPods {
			l.foreign = append(l.foreign, e)
			continue
		}
		e.Blocks = slices.Clone(e.Blocks)
		for _, n := range v.ENIs {
			for _, b := range n.Blocks {
				if n.ID == e.ID && !slices.Contains(e.Blocks, b.Prefix) {
					e.Blocks = append(e.Blocks, b.Prefix)
				}
			}
		}
		l.setLink(e)
		l.recalled = true
	}
}

// addENI puts an ENI into the pool. One that is there and on its way out stays
// so.
func (l *loop) addENI(e ENI) error {
	for _, n := range l.cfg.Pool.View().ENIs {
		if n.ID == e.ID && n.Card == e.Card && n.Device == e.Device {
			return nil
		}
	}
	return l.cfg.Pool.SetENI(ipam.ENI{ID: e.ID, Card: e.Card, Device: e.Device})
}

// ensureLinks brings the next link that needs it up to date.
func (l *loop) ensureLinks(v ipam.View, wake *earliest) {
	now, leaving := v.At, map[string]bool{}
	for _, n := range v.ENIs {
		leaving[n.ID] = n.Draining
	}
	k := key{kind: kindLink}
	ids := slices.SortedFunc(maps.Keys(l.links), func(a, b string) int {
		return l.links[a].Device - l.links[b].Device
	})
	for _, id := range ids {
		ln := l.links[id]
		wake.add(ln.backoff.until, now)
		wake.add(ln.full.until, now)
		if !ln.dirty || ln.backoff.active(now) || !l.ready(k, now) || leaving[id] {
			continue
		}
		e, edition := ln.ENI, ln.edition
		e.Blocks = slices.Clone(e.Blocks)
		l.start(k, task{eni: id}, func(ctx context.Context) func() {
			err := l.cfg.Links.Ensure(ctx, e)
			return func() { l.ensured(e, edition, err) }
		})
	}
}

// ensured makes the blocks of a verified link allocatable.
func (l *loop) ensured(e ENI, edition int, err error) {
	ln := l.links[e.ID]
	if ln == nil || l.ctx.Err() != nil && err != nil {
		return
	}
	if err != nil {
		// Whoever has an address keeps it; nobody else gets one until the link is
		// as it should be.
		l.setAside(e.ID)
		ln.backoff.fail(&linkError{e.ID, err}, time.Now(), l.rand())
		l.log.Warn("link not ready", "eni", e.ID, "retryIn", time.Until(ln.backoff.until), "err", err)
		return
	}
	ln.backoff = backoff{}
	ln.dirty = ln.edition != edition
	have := map[netip.Prefix]bool{}
	for _, n := range l.cfg.Pool.View().ENIs {
		for _, b := range n.Blocks {
			have[b.Prefix] = true
		}
	}
	var add []ipam.Block
	for _, p := range e.Blocks {
		// The set may have shrunk while the link was worked on.
		if l.observed && !have[p] && slices.Contains(ln.Blocks, p) {
			add = append(add, ipam.Block{Prefix: p, ENI: e.ID})
		}
	}
	if err := errors.Join(l.cfg.Pool.SetReady(e.ID, true), l.cfg.Pool.AddBlocks(add...)); err != nil {
		l.try("add blocks", err)
		ln.dirty = true
		ln.backoff.fail(err, time.Now(), l.rand())
		return
	}
	if len(add) > 0 {
		l.auditDue = true
		if ln.adopted && l.lag > 0 {
			l.want(time.Now()) // an observation that speaks about these blocks
		}
		ln.adopted = false
		l.log.Info("blocks ready", "eni", e.ID, "blocks", len(add))
	}
}
