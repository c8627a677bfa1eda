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

// observe asks the provider when something is uncertain.
func (l *loop) observe(v ipam.View, wake *earliest) {
	for _, n := range v.ENIs {
		for _, b := range n.Blocks {
			if b.Doubted && b.Used+b.Cooling == 0 && l.wanted.IsZero() {
				l.want(v.At)
			}
		}
	}
	k := key{kind: kindObserve}
	if l.wanted.IsZero() || !l.ready(k, v.At) {
		return
	}
	// The first look comes at once and may already show what is sought; the
	// last one when the source cannot be behind any more.
	if at := l.wanted.Add(l.lag); l.observed && !l.asked.Before(l.wanted) && at.After(v.At) {
		wake.add(at, v.At)
		return
	}
	l.start(k, task{}, func(ctx context.Context) func() {
		o, err := l.cfg.Provider.Observe(ctx)
		if err == nil {
			err = o.check()
		}
		return func() {
			if l.outcome(k, "", err); err == nil {
				l.adopt(o)
			}
		}
	})
}

// adopt carries out what an observation asks for.
func (l *loop) adopt(o Observation) {
	if !l.observed {
		l.log.Info("observed", "source", o.Source, "lag", o.Lag, "enis", len(o.ENIs))
	}
	l.observed, l.lag, l.asked = true, o.Lag, o.At
	if !o.truth().Before(l.wanted) {
		l.wanted = time.Time{}
	}
	l.subnet, l.subnetUntil = o.subnet(), o.At.Add(subnetMemory)
	v := l.cfg.Pool.View()
	c := reconcile(v, o)
	for _, n := range c.notes {
		l.log.Warn("observation differs", "source", o.Source, "note", n)
	}
	pool := l.cfg.Pool
	for _, p := range c.removeBlocks {
		// Somebody may have got an address of it since; then it is in doubt.
		if errors.Is(pool.RemoveBlocks(p), ipam.ErrInUse) {
			c.doubt = append(c.doubt, p)
		}
	}
	l.try("doubt blocks", pool.DoubtBlocks(true, c.doubt...))
	l.try("trust blocks", pool.DoubtBlocks(false, c.trust...))
	l.foreign = c.foreign
	for _, e := range c.foreign {
		delete(l.links, e.ID)
		l.setAside(e.ID)
	}
	for _, e := range c.links {
		delete(l.gone, e.ID)
		l.setLink(l.withPending(e, v, o))
		if ln := l.links[e.ID]; ln != nil {
			ln.adopted = true
		}
	}
	for _, id := range c.removeENIs {
		delete(l.links, id)
		l.setAside(id)
		l.gone[id] = true
	}
}

// subnetMemory is how long the count of a subnet's free addresses is believed.
// Other nodes take and return addresses all the time; beyond it, trying and
// being refused is the better source.
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

// try logs the failure of a step that a later turn repeats.
func (l *loop) try(what string, err error) {
	if err != nil {
		l.log.Error(what, "err", err)
	}
}

// setAside keeps the pool from allocating addresses of an ENI.
func (l *loop) setAside(eni string) {
	if err := l.cfg.Pool.SetReady(eni, false); !errors.Is(err, ipam.ErrUnknown) {
		l.try("set ENI aside", err)
	}
}

// withPending adds to an observed ENI the blocks that it got after the time
// that the observation speaks about and that are not in the pool yet.
func (l *loop) withPending(e ENI, v ipam.View, o Observation) ENI {
	ln := l.links[e.ID]
	if ln == nil || o.truth().After(ln.grown) {
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
