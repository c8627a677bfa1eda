// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// place chooses one address of each family of r, or returns the first family
// that has none. An address that the attachment has released and that is still
// cooling comes first. The addresses are on one ENI if possible, so that the pod
// depends on one link only.
func (s *state) place(r Request, now time.Time) (addrs []netip.Addr, missing Family) {
	m := s.at(now)
	addrs, missing = s.placeFrom(r, "", m)
	if missing != 0 || s.oneENI(addrs) {
		return addrs, missing
	}
	// The ENI of the first address has none of another family.
	tried := map[string]bool{}
	for _, b := range s.byResource[resource{r.Card, r.Families[0]}] {
		if tried[b.ENI] {
			continue
		}
		tried[b.ENI] = true
		if together, missing := s.placeFrom(r, b.ENI, m); missing == 0 && s.oneENI(together) {
			return together, 0
		}
	}
	return addrs, 0
}

// oneENI reports whether addresses of the pool are on one ENI.
func (s *state) oneENI(addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return s.blockOf(a).ENI != s.blockOf(addrs[0]).ENI })
}

// placeFrom chooses one address of each family of r, on the given ENI if it has
// one. If no ENI is given, that of the first address takes its place.
func (s *state) placeFrom(r Request, eni string, m moment) (addrs []netip.Addr, missing Family) {
	addrs = make([]netip.Addr, 0, len(r.Families))
	for _, f := range r.Families {
		if a := r.wanted(f); a.IsValid() {
			b := s.blockOf(a)
			if b == nil || !b.allocatable() {
				return nil, f
			}
			addrs, eni = append(addrs, a), b.ENI
			continue
		}
		blocks := s.byResource[resource{r.Card, f}]
		best, ok := released{addr: s.returned(r, f, m)}, true
		if !best.addr.IsValid() {
			best, ok = s.choose(blocks, eni, m)
		}
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

// choose picks the next address to allocate from blocks, which are ordered by
// device. The fullest block comes first, so that other blocks become empty and
// can be given back; then the lowest device, for the same reason; then the
// smaller block, which leaves prefixes empty; then the address that was released
// longest ago, which is the least likely to be in a neighbour cache or a
// connection table.
func (s *state) choose(blocks []*block, eni string, m moment) (released, bool) {
	var best *block
	var pick released
	for _, b := range blocks {
		if eni != "" && b.ENI != eni || !b.allocatable() {
			continue
		}
		c, ok := b.candidate(m)
		if ok && (best == nil || better(b, best, c, pick)) {
			best, pick = b, c
		}
	}
	return pick, best != nil
}

// better reports whether candidate cb of block b is a better choice than
// candidate ca of block a. Block a comes before b in device order.
func better(b, a *block, cb, ca released) bool {
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

// shortage counts the blocks and addresses of one resource, to explain why no
// address is free.
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

// reason returns the cause of the shortage, as far as the pool itself can tell.
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

// String returns the evidence of a refusal.
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

// allocations returns the allocations of a grant; nil if g is nil.
func (s *state) allocations(g *grant) []Allocation {
	if g == nil {
		return nil
	}
	out := make([]Allocation, 0, len(g.addrs))
	for _, a := range g.addrs {
		b := s.blockOf(a)
		out = append(out, Allocation{
			Attachment: g.attachment, Addr: a, Block: b.Prefix, ENI: b.ENI, Card: b.eni.Card, Device: b.eni.Device,
			Pod: g.pod, Netns: g.netns, Sandbox: g.sandbox, MAC: g.mac, At: g.at, RequestedAt: g.requestedAt,
		})
	}
	return out
}
