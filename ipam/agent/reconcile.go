// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// change is what an observation asks for, computed before anything is done.
type change struct {
	// links are the ENIs that pods may use, each with all the blocks that it
	// is believed to have.
	links []ENI
	// foreign are those that only take up room.
	foreign []ENI
	// removeBlocks and removeENIs are gone and idle.
	removeBlocks []netip.Prefix
	removeENIs   []string
	// doubt lists blocks that should be there and are not, but are used; trust
	// lists those that turned up again.
	doubt, trust []netip.Prefix
	notes        []string
}

// check refuses an observation that cannot be true.
func (o Observation) check() error {
	seen := map[string]bool{}
	primary := false
	for _, e := range o.ENIs {
		if e.ID == "" || seen[e.ID] {
			return fmt.Errorf("observation from %s lists ENI %q twice or without a name", o.Source, e.ID)
		}
		seen[e.ID] = true
		primary = primary || e.Primary
	}
	if !primary {
		return fmt.Errorf("observation from %s of %d ENIs lacks the primary one", o.Source, len(o.ENIs))
	}
	return nil
}

// truth is the time up to which an observation is complete.
func (o Observation) truth() time.Time { return o.At.Add(-o.Lag) }

// reconcile compares what the pool knows with an observation. The pool's
// journal is the first source: an observation adds what the pool does not know
// unless it is older than the pool's own removal, and takes away only what is
// idle and was there before the time that the observation speaks about.
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

// stale says whether something observed went after the observation's time.
func (c *change) stale(v ipam.View, o Observation, key string) bool {
	at, removed := v.Removed[key]
	if removed && !o.truth().After(at) {
		c.notes = append(c.notes, fmt.Sprintf("%s still shows %s, which is gone", o.Source, key))
		return true
	}
	return false
}

// blocks compares the blocks of one ENI and makes e.Blocks what is believed.
func (c *change) blocks(v ipam.View, o Observation, n ipam.ENIView, e *ENI, owner map[netip.Prefix]string) {
	var believed []netip.Prefix
	observed := map[netip.Prefix]bool{}
	for _, p := range e.Blocks {
		observed[p] = true
		on, isKnown := owner[p]
		switch {
		case !isKnown && c.stale(v, o, p.String()):
		case isKnown && on != e.ID:
			c.notes = append(c.notes, fmt.Sprintf("%s shows %v on %s, the journal on %s", o.Source, p, e.ID, on))
		default:
			believed = append(believed, p)
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
			believed = append(believed, b.Prefix)
		}
	}
	slices.SortFunc(believed, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	e.Blocks = believed
}

// missingBlock handles a block that the observation lacks, and says whether it
// is still believed to be there.
func (c *change) missingBlock(o Observation, b ipam.BlockView) bool {
	switch {
	case !o.truth().After(b.Since):
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

func (c *change) missingENI(o Observation, n ipam.ENIView) {
	if !o.truth().After(n.Since) {
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
