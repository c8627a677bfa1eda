// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
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
	// dirty means that Links.Ensure must be called for the ENI.
	dirty bool
	// revision counts changes of ENI, so that a change during Links.Ensure is
	// noticed.
	revision int
	// assignedAt is when blocks were last assigned.
	assignedAt time.Time
	backoff    backoff
	// adopted means that the blocks come from an observation, which may be
	// outdated.
	adopted bool
	// full is the back-off after EC2 refused more blocks on the ENI. It is
	// cleared when the number of the ENI's blocks changes.
	full backoff
}

// setLink adds or updates an ENI, and marks its link as dirty. enis are those of the
// pool; an update does not need them.
func (l *loop) setLink(e ENI, enis []ipam.ENIView) {
	ln := l.links[e.ID]
	if ln == nil {
		if err := l.addENI(e, enis); err != nil {
			l.logFailure("add ENI", err)
			return
		}
		ln = &link{}
		l.links[e.ID] = ln
	}
	if len(e.Blocks) != len(ln.Blocks) {
		ln.full = backoff{}
	}
	ln.ENI, ln.dirty, ln.backoff.until = e, true, time.Time{}
	ln.revision++
}

// restoreTime is how long the first observation waits at most for the links of restored
// ENIs.
const restoreTime = time.Second

// restoreKnown adds the ENIs of Config.Known, so that their links are maintained
// until the first observation. Their blocks are those of Config.Known and of the
// pool, because pods may use them. Blocks that the pool lacks are not added to
// it.
func (l *loop) restoreKnown() {
	v := l.cfg.Pool.View()
	for _, e := range l.cfg.Known {
		if e.NoPods {
			l.foreign = append(l.foreign, e)
			continue
		}
		e.Blocks = slices.Clone(e.Blocks)
		for _, n := range v.ENIs {
			for _, b := range n.Blocks {
				if n.ID == e.ID {
					l.observeBy = v.At.Add(restoreTime)
				}
				if n.ID == e.ID && !slices.Contains(e.Blocks, b.Prefix) {
					e.Blocks = append(e.Blocks, b.Prefix)
				}
			}
		}
		l.setLink(e, v.ENIs)
		l.restored = true
	}
}

// addENI adds an ENI to the pool. If the pool has it already, nothing changes;
// in particular, a draining ENI stays draining.
func (l *loop) addENI(e ENI, enis []ipam.ENIView) error {
	for _, n := range enis {
		if n.ID == e.ID && n.Card == e.Card && n.Device == e.Device {
			return nil
		}
	}
	return l.cfg.Pool.SetENI(ipam.ENI{ID: e.ID, Card: e.Card, Device: e.Device})
}

// ensureLinks starts Links.Ensure for each dirty link, in the order of devices. The calls
// run side by side: what Links does for one of them may serve the others.
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
		if !ln.dirty || ln.backoff.active(now) || l.linking(id) || leaving[id] {
			continue
		}
		e, edition := ln.ENI, ln.revision
		e.Blocks = slices.Clone(e.Blocks)
		l.start(k, task{eni: id}, func(ctx context.Context) func() {
			err := l.cfg.Links.Ensure(ctx, e)
			return func() { l.ensured(e, edition, err) }
		})
	}
}

// linking reports whether Links.Ensure is under way for an ENI.
func (l *loop) linking(eni string) bool {
	return slices.ContainsFunc(l.tasks, func(t *task) bool { return t.eni == eni && t.kind == kindLink })
}

// ensured handles the result of Links.Ensure: if the link is verified, its blocks
// become allocatable.
func (l *loop) ensured(e ENI, edition int, err error) {
	ln := l.links[e.ID]
	if ln == nil || l.stopping && err != nil {
		return
	}
	if err != nil {
		// Attachments keep their addresses, and no more are allocated until the link
		// is verified.
		l.setNotReady(e.ID)
		ln.backoff.fail(&linkError{e.ID, err}, l.began, time.Now(), l.rand())
		l.log.Warn("link not ready", "eni", e.ID, "retryIn", time.Until(ln.backoff.until), "err", err)
		return
	}
	ln.backoff = backoff{}
	ln.dirty = ln.revision != edition
	l.linked(ln, e)
}

// linked makes the blocks of an ENI allocatable, because its link is verified.
func (l *loop) linked(ln *link, e ENI) {
	var add []ipam.Block
	if l.observed {
		for _, p := range missing(l.cfg.Pool.View(), e) {
			if slices.Contains(ln.Blocks, p) { // it may have been unassigned during Links.Ensure
				add = append(add, ipam.Block{Prefix: p, ENI: e.ID})
			}
		}
	}
	if err := errors.Join(l.cfg.Pool.SetReady(e.ID, true), l.cfg.Pool.AddBlocks(add...)); err != nil {
		l.logFailure("add blocks", err)
		ln.dirty = true
		ln.backoff.fail(err, l.began, time.Now(), l.rand())
		return
	}
	if len(add) > 0 {
		l.auditDue = true
		if ln.adopted && l.lag > 0 {
			l.needObservation(time.Now()) // one that is complete up to now
		}
		ln.adopted = false
		l.log.Info("blocks ready", "eni", e.ID, "blocks", len(add))
	}
}

// verifiedAs reports whether the link is verified for an ENI as e describes it.
func (ln *link) verifiedAs(e ENI) bool {
	same := func(a, b []netip.Prefix) bool {
		return slices.Equal(slices.SortedFunc(slices.Values(a), netip.Prefix.Compare), slices.SortedFunc(slices.Values(b), netip.Prefix.Compare))
	}
	return !ln.dirty && ln.backoff == backoff{} && ln.Primary == e.Primary && ln.Card == e.Card && ln.Device == e.Device && ln.MTU == e.MTU &&
		bytes.Equal(ln.MAC, e.MAC) && slices.Equal(ln.Addrs, e.Addrs) && slices.Equal(ln.Gateways, e.Gateways) && same(ln.Blocks, e.Blocks)
}

// missing returns the blocks of an ENI that the pool does not have, usually none.
func missing(v ipam.View, e ENI) (out []netip.Prefix) {
	own := map[netip.Prefix]bool{}
	for _, n := range v.ENIs {
		if n.ID == e.ID {
			for _, b := range n.Blocks {
				own[b.Prefix] = true
			}
		}
	}
	inPool := func(p netip.Prefix) bool {
		return slices.ContainsFunc(v.ENIs, func(n ipam.ENIView) bool {
			return slices.ContainsFunc(n.Blocks, func(b ipam.BlockView) bool { return b.Prefix == p })
		})
	}
	for _, p := range e.Blocks {
		if !own[p] && !inPool(p) {
			out = append(out, p)
		}
	}
	return out
}
