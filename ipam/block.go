// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// smallBits is the number of host bits up to which a block remembers the
// release of each of its addresses for ever. Beyond it (an IPv6 prefix has
// 2^48 addresses) new addresses never run out, and old ones are forgotten when
// they have rested.
const smallBits = 8

// block is a Block with the state of its addresses. An address is in one of
// four conditions: never given out (next and all above), used, rested or, in a
// large block, forgotten. A used address belongs to an attachment or, with the
// zero Attachment, to something that the pool does not know (see Quarantine).
type block struct {
	Block
	eni      *eni
	since    time.Time
	draining bool
	doubted  bool
	// next is the first address never given out; invalid when there is none.
	next netip.Addr
	used map[netip.Addr]Attachment
	// rested holds what was given out and came back, oldest first.
	rested []rest
}

// rest says since when an address is free.
type rest struct {
	addr netip.Addr
	at   time.Time
}

func (a rest) compare(b rest) int {
	if c := a.at.Compare(b.at); c != 0 {
		return c
	}
	return a.addr.Compare(b.addr)
}

func newBlock(b Block, e *eni, at time.Time) *block {
	return &block{Block: b, eni: e, since: at, next: firstAddr(b.Prefix), used: map[netip.Addr]Attachment{}}
}

// firstAddr returns the first address that a pod may have. All sixteen of a
// /28 serve. Of an IPv6 prefix the all-zero host part stays out, because it is
// the subnet-router anycast address to whoever sees the prefix as a subnet
// (RFC 4291, section 2.6.1).
func firstAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is6() && !p.IsSingleIP() {
		return p.Addr().Next()
	}
	return p.Addr()
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// size is the number of addresses, or a very large number.
func (b *block) size() int {
	bits := hostBits(b.Prefix)
	if bits >= 31 {
		return math.MaxInt32
	}
	n := 1 << bits
	if firstAddr(b.Prefix) != b.Prefix.Addr() {
		n--
	}
	return n
}

func (b *block) small() bool { return hostBits(b.Prefix) <= smallBits }

// allocatable says whether addresses may be taken from the block at all.
func (b *block) allocatable() bool {
	return !b.draining && !b.doubted && b.eni.ready && !b.eni.draining
}

// skipTo moves next behind addr. What a small block leaves out on the way was
// never given out and is free since ever.
func (b *block) skipTo(addr netip.Addr) {
	for b.small() && b.next.IsValid() && b.next.Less(addr) {
		b.insert(rest{addr: b.next})
		b.next = b.next.Next()
	}
	if b.next = addr.Next(); !b.Prefix.Contains(b.next) {
		b.next = netip.Addr{}
	}
}

func (b *block) insert(r rest) {
	i, _ := slices.BinarySearchFunc(b.rested, r, rest.compare)
	b.rested = slices.Insert(b.rested, i, r)
}

func (b *block) unrest(addr netip.Addr) (rest, bool) {
	i := slices.IndexFunc(b.rested, func(r rest) bool { return r.addr == addr })
	if i < 0 {
		return rest{}, false
	}
	r := b.rested[i]
	if i == 0 {
		b.rested = b.rested[1:]
	} else {
		b.rested = slices.Delete(b.rested, i, i+1)
	}
	return r, true
}

// forget drops what has rested from a large block.
func (b *block) forget(m moment) {
	if b.small() {
		return
	}
	n := 0
	for n < len(b.rested) && m.free(b.rested[n].at) {
		n++
	}
	b.rested = b.rested[n:]
}

// moment is the time at which addresses are looked at, and the rules for how
// long they rest.
type moment struct {
	now      time.Time
	cooldown time.Duration
	// restSince is when addresses count as released that were not released
	// later; zero if there is no such time.
	restSince time.Time
}

// freeAt returns when an address that was released at the given time has rested
// enough. The zero time means always.
func (m moment) freeAt(released time.Time) time.Time {
	if released.Before(m.restSince) {
		released = m.restSince
	}
	if released.IsZero() {
		return time.Time{}
	}
	return released.Add(m.cooldown)
}

func (m moment) free(released time.Time) bool { return !m.freeAt(released).After(m.now) }

// candidate returns the address that the block would give out next and when it
// was released, the zero time meaning never.
func (b *block) candidate(m moment) (rest, bool) {
	if b.next.IsValid() && m.free(time.Time{}) {
		return rest{addr: b.next}, true
	}
	if len(b.rested) > 0 && m.free(b.rested[0].at) {
		return b.rested[0], true
	}
	return rest{}, false
}

// cooling counts the addresses that have not rested enough.
func (b *block) cooling(m moment) int {
	if !m.free(time.Time{}) {
		return b.size() - len(b.used)
	}
	n := 0
	for i := len(b.rested) - 1; i >= 0 && !m.free(b.rested[i].at); i-- {
		n++
	}
	return n
}

// nextFree returns when the first cooling address has rested enough.
func (b *block) nextFree(m moment) time.Time {
	if b.next.IsValid() && !m.free(time.Time{}) {
		return m.freeAt(time.Time{})
	}
	for _, r := range b.rested {
		if !m.free(r.at) {
			return m.freeAt(r.at)
		}
	}
	return time.Time{}
}
