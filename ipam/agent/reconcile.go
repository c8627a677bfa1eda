// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// change is what an observation changes in the pool and the links. It is computed
// before any of it is applied.
type change struct {
	// links are the ENIs that pods may use, each with all the blocks that it is
	// assumed to have.
	links []ENI
	// foreign are the ENIs that pods may not use.
	foreign []ENI
	// removeBlocks and removeENIs are not observed, and none of their addresses is
	// used or cooling.
	removeBlocks []netip.Prefix
	removeENIs   []string
	// doubt lists blocks that are not observed although addresses of them are used
	// or cooling. trust lists doubted blocks that are observed again.
	doubt, trust []netip.Prefix
	notes        []string
}

// check returns an error for an observation that cannot be correct.
func (o Observation) check() error {
	seen := map[string]bool{}
	primary := false
	for _, e := range o.ENIs {
		if e.ID == "" || seen[e.ID] {
			return fmt.Errorf("observation from %s lists ENI %q, want each ENI once and with its ID", o.Source, e.ID)
		}
		seen[e.ID] = true
		primary = primary || e.Primary
	}
	if !primary {
		return fmt.Errorf("observation from %s lists %d ENIs without the primary ENI", o.Source, len(o.ENIs))
	}
	return nil
}

// completeUntil returns the time up to which an observation is complete.
func (o Observation) completeUntil() time.Time { return o.At.Add(-o.Lag) }

// reconcile compares the pool with an observation. The pool's journal has
// precedence: an observation adds an ENI or block that the pool lacks, unless the
// pool removed it after the observation was complete. It removes an ENI or block
// only if no address of it is used or cooling, and if the pool had it before the
// observation was complete.
func reconcile(v ipam.View, o Observation) change {
	var c change
	known := map[string]ipam.ENIView{}
	owner := map[netip.Prefix]string{}
	for _, n := range v.ENIs {
		known[n.ID] = n
		for _, b := range n.Blocks {
			owner[b.Prefix] = n.ID
		}
	}
	present := map[string]bool{}
	for _, e := range o.ENIs {
		present[e.ID] = true
		n, isKnown := known[e.ID]
		switch {
		case e.NoPods:
			c.foreign = append(c.foreign, e)
		case !isKnown && c.stale(v, o, e.ID):
		default:
			c.blocks(v, o, n, &e, owner)
			c.links = append(c.links, e)
		}
	}
	for _, n := range v.ENIs {
		if !present[n.ID] {
			c.missingENI(o, n)
		}
	}
	return c
}

// stale reports whether the pool removed an observed ENI or block after the
// observation was complete.
func (c *change) stale(v ipam.View, o Observation, key string) bool {
	at, removed := v.Removed[key]
	if removed && !o.completeUntil().After(at) {
		c.notes = append(c.notes, fmt.Sprintf("%s still lists %s, which was removed", o.Source, key))
		return true
	}
	return false
}

// blocks compares the blocks of one ENI and sets e.Blocks to the blocks that it
// is assumed to have.
func (c *change) blocks(v ipam.View, o Observation, n ipam.ENIView, e *ENI, owner map[netip.Prefix]string) {
	var assumed []netip.Prefix
	observed := map[netip.Prefix]bool{}
	for _, p := range e.Blocks {
		observed[p] = true
		on, isKnown := owner[p]
		switch {
		case !isKnown && c.stale(v, o, p.String()):
		case isKnown && on != e.ID:
			c.notes = append(c.notes, fmt.Sprintf("%s lists %v on %s, the journal on %s", o.Source, p, e.ID, on))
		default:
			assumed = append(assumed, p)
		}
	}
	for _, b := range n.Blocks {
		if observed[b.Prefix] {
			if b.Doubted {
				c.trust = append(c.trust, b.Prefix)
			}
			continue
		}
		if c.missingBlock(o, b) {
			assumed = append(assumed, b.Prefix)
		}
	}
	slices.SortFunc(assumed, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	e.Blocks = assumed
}

// missingBlock handles a block that the observation lacks, and reports whether
// the ENI is still assumed to have it.
func (c *change) missingBlock(o Observation, b ipam.BlockView) bool {
	switch {
	case !o.completeUntil().After(b.Since):
		return true // the observation is older than the block
	case b.Used+b.Cooling == 0:
		c.removeBlocks = append(c.removeBlocks, b.Prefix)
		return false
	default:
		if !b.Doubted {
			c.doubt = append(c.doubt, b.Prefix)
			c.notes = append(c.notes, fmt.Sprintf("%s lacks %v of %s, which pods use", o.Source, b.Prefix, b.ENI))
		}
		return true
	}
}

// missingENI handles an ENI that the observation lacks.
func (c *change) missingENI(o Observation, n ipam.ENIView) {
	if !o.completeUntil().After(n.Since) {
		return
	}
	idle := true
	for _, b := range n.Blocks {
		idle = idle && b.Used+b.Cooling == 0
	}
	if idle {
		c.removeENIs = append(c.removeENIs, n.ID)
		return
	}
	for _, b := range n.Blocks {
		if !b.Doubted {
			c.doubt = append(c.doubt, b.Prefix)
		}
	}
	c.notes = append(c.notes, fmt.Sprintf("%s lacks %s, whose addresses pods use", o.Source, n.ID))
}
