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

// observe starts an observation if one is needed.
func (l *loop) observe(v ipam.View, wake *earliest) {
	for _, n := range v.ENIs {
		for _, b := range n.Blocks {
			if b.Doubted && b.Used+b.Cooling == 0 && l.uncertainAt.IsZero() {
				l.needObservation(v.At)
			}
		}
	}
	k := key{kind: kindObserve}
	if l.uncertainAt.IsZero() || !l.ready(k, v.At) {
		return
	}
	if !l.observed && l.observeBy.After(v.At) && !l.serves(v) {
		wake.add(l.observeBy, v.At)
		return
	}
	// The first observation is made at once and may already be complete up to
	// uncertainAt. The next one is made when it certainly will be.
	if at := l.uncertainAt.Add(l.lag); l.observed && !l.observedAt.Before(l.uncertainAt) && at.After(v.At) {
		wake.add(at, v.At)
		return
	}
	l.start(k, task{}, func(ctx context.Context) func() {
		o, err := l.cfg.Provider.Observe(ctx)
		if err == nil {
			err = o.check()
		}
		return func() {
			l.noteOutcome(k, "", err)
			if err == nil {
				l.adopt(o)
			}
		}
	})
}

// adopt applies an observation to the pool and the links.
func (l *loop) adopt(o Observation) {
	first := !l.observed
	if first {
		l.log.Info("observed", "source", o.Source, "lag", o.Lag, "enis", len(o.ENIs))
	}
	l.observed, l.lag, l.observedAt = true, o.Lag, o.At
	if !o.completeUntil().Before(l.uncertainAt) {
		l.uncertainAt = time.Time{}
	}
	l.subnet, l.subnetUntil = o.subnet(), o.At.Add(subnetMemory)
	v := l.cfg.Pool.View()
	c := reconcile(v, o)
	for _, n := range c.notes {
		l.log.Warn("observation differs", "source", o.Source, "note", n)
	}
	pool := l.cfg.Pool
	for _, p := range c.removeBlocks {
		// A pod may have got an address of it since; then the block is doubted.
		if errors.Is(pool.RemoveBlocks(p), ipam.ErrInUse) {
			c.doubt = append(c.doubt, p)
		}
	}
	l.logFailure("doubt blocks", pool.DoubtBlocks(true, c.doubt...))
	l.logFailure("trust blocks", pool.DoubtBlocks(false, c.trust...))
	l.foreign = slices.DeleteFunc(c.foreign, func(e ENI) bool {
		// The ENI was still being created when the source was asked.
		ln := l.links[e.ID]
		return ln != nil && !o.completeUntil().After(ln.assignedAt)
	})
	for _, e := range l.foreign {
		delete(l.links, e.ID)
		l.setNotReady(e.ID)
	}
	for _, e := range c.links {
		delete(l.gone, e.ID)
		e = l.withPending(e, v, o)
		if ln := l.links[e.ID]; first && ln != nil && ln.verifiedAs(e) {
			// The link was verified a moment ago, but its blocks were not observed then.
			ln.adopted = true
			l.linked(ln, e)
			continue
		}
		l.setLink(e, v.ENIs)
		if ln := l.links[e.ID]; ln != nil {
			ln.adopted = true
		}
	}
	for _, id := range c.removeENIs {
		delete(l.links, id)
		l.setNotReady(id)
		l.gone[id] = true
	}
}

// subnetMemory is how long the observed count of a subnet's free addresses is
// used. Other nodes assign and unassign addresses all the time, so after that
// time the agent tries, and learns from the answer.
const subnetMemory = 30 * time.Second

func (o Observation) subnet() (s warmpool.Subnet) {
	if o.FreeAddrs != nil {
		s.Free, s.Exhausted = *o.FreeAddrs, *o.FreeAddrs == 0
	}
	if o.FreePrefixes != nil {
		s.FreePrefixes = *o.FreePrefixes
	}
	return s
}

// logFailure logs the error of a step that a later turn repeats; nil is no
// error.
func (l *loop) logFailure(what string, err error) {
	if err != nil {
		l.log.Error(what, "err", err)
	}
}

// setNotReady stops the pool from allocating addresses of an ENI.
func (l *loop) setNotReady(eni string) {
	if err := l.cfg.Pool.SetReady(eni, false); !errors.Is(err, ipam.ErrUnknown) {
		l.logFailure("set ENI not ready", err)
	}
}

// withPending adds to an observed ENI the blocks that were assigned after the
// observation was complete and that are not in the pool yet.
func (l *loop) withPending(e ENI, v ipam.View, o Observation) ENI {
	ln := l.links[e.ID]
	if ln == nil || o.completeUntil().After(ln.assignedAt) {
		return e
	}
	inPool := map[netip.Prefix]bool{}
	for _, n := range v.ENIs {
		for _, b := range n.Blocks {
			inPool[b.Prefix] = true
		}
	}
	for _, p := range ln.Blocks {
		if !inPool[p] && !slices.Contains(e.Blocks, p) {
			e.Blocks = append(e.Blocks, p)
		}
	}
	return e
}
