// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// place chooses one address of each family of r, or says which family has none.
func (s *state) place(r Request, now time.Time) (addrs []netip.Addr, missing Family) {
	m, eni := s.at(now), ""
	addrs = make([]netip.Addr, 0, len(r.Families))
	for _, f := range r.Families {
		blocks := s.byResource[resource{r.Card, f}]
		// Addresses of one pod stay on one ENI where they can, so that the pod
		// depends on one link only.
		best, ok := s.choose(blocks, eni, m)
		if !ok && eni != "" {
			best, ok = s.choose(blocks, "", m)
		}
		if !ok {
			return nil, f
		}
		addrs = append(addrs, best.addr)
		if eni == "" {
			eni = s.blockOf(best.addr).ENI
		}
	}
	return addrs, 0
}

// choose picks the address to give out next among blocks, which are in the
// order of their devices. The fullest block comes first, so that others fall
// empty and can be given back; then the lowest device, for the same reason;
// then the smaller block, which keeps prefixes whole; then the address that
// was released longest ago, which is the least likely to be remembered by a
// neighbour or a connection table.
func (s *state) choose(blocks []*block, eni string, m moment) (rest, bool) {
	var best *block
	var pick rest
	for _, b := range blocks {
		if eni != "" && b.ENI != eni || !b.allocatable() {
			continue
		}
		c, ok := b.candidate(m)
		if ok && (best == nil || before(b, best, c, pick)) {
			best, pick = b, c
		}
	}
	return pick, best != nil
}

// before says whether b, which stands behind a in device order, is the better
// choice.
func before(b, a *block, cb, ca rest) bool {
	switch {
	case len(b.used) != len(a.used):
		return len(b.used) > len(a.used)
	case b.eni != a.eni:
		return false
	case b.Prefix.Bits() != a.Prefix.Bits():
		return b.Prefix.Bits() > a.Prefix.Bits()
	default:
		return cb.at.Before(ca.at)
	}
}

// shortage counts the addresses of one resource, to explain why none is free.
type shortage struct {
	blocks, used, quarantined, cooling, unready, draining, doubted int
	nextFree                                                       time.Time
}

func (s *state) shortage(r resource, now time.Time) shortage {
	var out shortage
	m := s.at(now)
	for _, b := range s.byResource[r] {
		out.blocks++
		quarantined := b.quarantined()
		out.used += len(b.used) - quarantined
		out.quarantined += quarantined
		switch {
		case b.draining || b.eni.draining:
			out.draining++
			continue
		case b.doubted:
			out.doubted++
			continue
		case !b.eni.ready:
			out.unready++
			continue
		}
		out.cooling += b.cooling(m)
		if t := b.nextFree(m); !t.IsZero() && (out.nextFree.IsZero() || t.Before(out.nextFree)) {
			out.nextFree = t
		}
	}
	return out
}

// reason names the cause that the pool itself can see.
func (n shortage) reason() Reason {
	switch {
	case n.blocks == 0:
		return ReasonNoBlocks
	case n.cooling > 0:
		return ReasonCooling
	case n.unready > 0:
		return ReasonLinkNotReady
	default:
		return ReasonAllInUse
	}
}

// String is the evidence of a refusal.
func (n shortage) String() string {
	s := fmt.Sprintf("%d blocks, %d addresses used, %d cooling", n.blocks, n.used, n.cooling)
	if n.quarantined > 0 {
		s += fmt.Sprintf(", %d quarantined", n.quarantined)
	}
	if n.unready > 0 {
		s += fmt.Sprintf(", %d blocks on ENIs not ready", n.unready)
	}
	if n.draining > 0 {
		s += fmt.Sprintf(", %d blocks draining", n.draining)
	}
	if n.doubted > 0 {
		s += fmt.Sprintf(", %d blocks in doubt", n.doubted)
	}
	return s
}

// allocations turns a grant into what callers see.
func (s *state) allocations(g *grant) []Allocation {
	if g == nil {
		return nil
	}
	out := make([]Allocation, 0, len(g.addrs))
	for _, a := range g.addrs {
		b := s.blockOf(a)
		out = append(out, Allocation{
			Attachment: g.attachment, Addr: a, Block: b.Prefix, ENI: b.ENI, Card: b.eni.Card, Device: b.eni.Device,
			Pod: g.pod, Netns: g.netns, Sandbox: g.sandbox, At: g.at, Asked: g.asked,
		})
	}
	return out
}
