// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// digest returns the shortest list of events that leads to the durable part of
// the state.
func (s *state) digest() []Event {
	var out []Event
	for _, key := range slices.Sorted(maps.Keys(s.removed)) {
		e := Event{Kind: EventENIRemoved, At: s.removed[key], ENI: key}
		if strings.Contains(key, "/") {
			e = Event{Kind: EventBlockRemoved, At: s.removed[key], Block: netip.MustParsePrefix(key)}
		}
		out = append(out, e)
	}
	holders := s.lastHolders()
	for _, n := range s.sortedENIs() {
		out = append(out, Event{Kind: EventENISet, At: n.since, ENI: n.ID, Card: n.Card, Device: n.Device})
		for _, b := range n.blocks {
			out = append(out, b.digest(holders)...)
		}
		if n.draining {
			out = append(out, Event{Kind: EventENIDraining, At: n.since, ENI: n.ID})
		}
	}
	for _, g := range s.sortedGrants() {
		out = append(out, Event{Kind: EventAllocated, At: g.at, Attachment: g.attachment, Addrs: g.addrs, Pod: g.pod, Netns: g.netns, Sandbox: g.sandbox, MAC: g.mac})
	}
	return out
}

func (b *block) digest(holders map[released]Attachment) []Event {
	e := Event{Kind: EventBlockAdded, At: b.since, ENI: b.ENI, Block: b.Prefix, Next: b.next}
	if !b.next.IsValid() {
		// Every address was allocated at least once. The address after the last
		// one records that, although it is outside of the block.
		e.Next = lastAddr(b.Prefix).Next()
	}
	if e.Next == firstAddr(b.Prefix) {
		e.Next = netip.Addr{}
	}
	out := []Event{e}
	for _, r := range b.released {
		if !r.at.IsZero() {
			out = append(out, Event{Kind: EventAddrsReleased, At: r.at, Addrs: []netip.Addr{r.addr}, Attachment: holders[r]})
		}
	}
	if b.draining {
		out = append(out, Event{Kind: EventBlockDraining, At: b.since, Block: b.Prefix})
	}
	return out
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(a)*8; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(a)
	return last
}

func (s *state) sortedENIs() []*eni {
	return slices.SortedFunc(maps.Values(s.enis), compareENIs)
}

func (s *state) sortedGrants() []*grant {
	return slices.SortedFunc(maps.Values(s.held), func(a, b *grant) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		x, y := a.attachment, b.attachment
		return cmp.Or(strings.Compare(x.Network, y.Network), strings.Compare(x.ContainerID, y.ContainerID), strings.Compare(x.IfName, y.IfName))
	})
}

// rebaseTimes converts the wall clock times of a journal into times with a
// monotonic reading, which can be compared with now. A time in the future,
// written before the wall clock was set back, counts as long ago.
func (s *state) rebaseTimes(now time.Time) {
	wall := now.Round(0)
	rebased := func(at time.Time) time.Time {
		age := wall.Sub(at)
		if at.IsZero() {
			return at
		}
		if age < 0 {
			age = removedMemory
		}
		return now.Add(-age)
	}
	for _, n := range s.enis {
		n.since = rebased(n.since)
	}
	for _, g := range s.held {
		g.at = rebased(g.at)
	}
	for key, at := range s.removed {
		s.removed[key] = rebased(at)
	}
	for _, addrs := range s.returning {
		for i := range addrs {
			addrs[i].at = rebased(addrs[i].at)
		}
	}
	for _, b := range s.blocks {
		b.since = rebased(b.since)
		for i := range b.released {
			b.released[i].at = rebased(b.released[i].at)
		}
		slices.SortFunc(b.released, released.compare)
	}
}
