// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// Block is a range of addresses that EC2 assigned to an ENI as one unit, that
// is, one slot: a single address (/32, /128) or a delegated prefix (/28, /80).
type Block struct {
	Prefix netip.Prefix
	ENI    string
}

// smallBits is the number of host bits up to which a block remembers the
// release of each of its addresses for ever. A larger block (an IPv6 prefix has
// 2^48 addresses) never runs out of new addresses, so it forgets released ones
// after their cooldown.
const smallBits = 8

// block is a Block with the state of its addresses. An address is in one of
// four states: never allocated (next and all above), used, released or, in a
// large block, forgotten. A used address belongs to an attachment or, with the
// zero Attachment, is quarantined (see Quarantine).
type block struct {
	Block
	eni      *eni
	since    time.Time
	draining bool
	doubted  bool
	// next is the lowest address that was never allocated; invalid when there is
	// none. In a large block, some addresses above next may be used or released,
	// because attachments wanted them.
	next netip.Addr
	used takenAddrs
	// released lists the addresses that are not in use below next, by the time
	// of their release.
	released []released
}

// takenAddrs are the used addresses of a block with their owners, sorted. Most blocks have one
// address, for which a map would take ten times the memory.
type takenAddrs []takenAddr

type takenAddr struct {
	addr  netip.Addr
	owner Attachment
}

func (t takenAddrs) find(a netip.Addr) (i int, taken bool) {
	return slices.BinarySearchFunc(t, a, func(x takenAddr, a netip.Addr) int { return x.addr.Compare(a) })
}

// owner returns the owner of an address, and false if the address is not used.
func (t takenAddrs) owner(a netip.Addr) (Attachment, bool) {
	i, taken := t.find(a)
	if !taken {
		return Attachment{}, false
	}
	return t[i].owner, true
}

func (t *takenAddrs) set(a netip.Addr, owner Attachment) {
	i, taken := t.find(a)
	if !taken {
		*t = slices.Insert(*t, i, takenAddr{addr: a})
	}
	(*t)[i].owner = owner
}

func (t *takenAddrs) remove(a netip.Addr) {
	if i, taken := t.find(a); taken {
		*t = slices.Delete(*t, i, i+1)
	}
}

// released is an address that is not in use, with the time of its release. The
// zero time means that it was never in use.
type released struct {
	addr netip.Addr
	at   time.Time
}

func (a released) compare(b released) int {
	if c := a.at.Compare(b.at); c != 0 {
		return c
	}
	return a.addr.Compare(b.addr)
}

func newBlock(b Block, e *eni, at time.Time) *block {
	return &block{Block: b, eni: e, since: at, next: firstAddr(b.Prefix)}
}

// firstAddr returns the first address that the pool gives to a pod: of a /28 all sixteen. The
// first address of an IPv6 prefix is left out, because a host that takes the prefix for a
// subnet treats it as the subnet-router anycast address (RFC 4291, section 2.6.1). Pods that
// were taken over from another agent may have it.
func firstAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is6() && !p.IsSingleIP() {
		return p.Addr().Next()
	}
	return p.Addr()
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// size returns the number of addresses, at most math.MaxInt32.
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

// allocatable reports whether the pool may allocate addresses of the block.
func (b *block) allocatable() bool {
	return !b.draining && !b.doubted && b.eni.ready && !b.eni.draining
}

// ahead reports whether addr is above next in a large block. If next skipped to it,
// one address could use up the block.
func (b *block) ahead(addr netip.Addr) bool {
	return !b.small() && b.next.IsValid() && b.next.Less(addr)
}

// skipTo moves next to the address after addr. In a small block, the addresses
// that next skips are added to released with the zero time. In a large block, next
// also skips the addresses that were allocated ahead of it.
func (b *block) skipTo(addr netip.Addr) {
	for b.small() && b.next.IsValid() && b.next.Less(addr) {
		b.addReleased(released{addr: b.next})
		b.next = b.next.Next()
	}
	b.next = addr.Next()
	for !b.small() && b.Prefix.Contains(b.next) && b.wasAllocated(b.next) {
		b.next = b.next.Next()
	}
	if !b.Prefix.Contains(b.next) {
		b.next = netip.Addr{}
	}
}

// wasAllocated reports whether an address is used or released.
func (b *block) wasAllocated(addr netip.Addr) bool {
	_, used := b.used.find(addr)
	return used || slices.ContainsFunc(b.released, func(r released) bool { return r.addr == addr })
}

func (b *block) addReleased(r released) {
	i, _ := slices.BinarySearchFunc(b.released, r, released.compare)
	b.released = slices.Insert(b.released, i, r)
}

func (b *block) removeReleased(addr netip.Addr) (released, bool) {
	i := slices.IndexFunc(b.released, func(r released) bool { return r.addr == addr })
	if i < 0 {
		return released{}, false
	}
	r := b.released[i]
	if i == 0 {
		b.released = b.released[1:]
	} else {
		b.released = slices.Delete(b.released, i, i+1)
	}
	return r, true
}

// forgetCooled drops the addresses of a large block that are no longer cooling.
func (b *block) forgetCooled(m moment) {
	if b.small() {
		return
	}
	n := 0
	for n < len(b.released) && m.free(b.released[n].at) {
		n++
	}
	b.released = b.released[n:]
}

// moment is a point in time, with the rules for how long addresses cool.
type moment struct {
	now      time.Time
	cooldown time.Duration
	// coolingSince is Config.CoolingSince.
	coolingSince time.Time
}

// freeAt returns when the cooldown of an address ends that was released at
// releasedAt. The zero time means that the address was never cooling.
func (m moment) freeAt(releasedAt time.Time) time.Time {
	if releasedAt.Before(m.coolingSince) {
		releasedAt = m.coolingSince
	}
	if releasedAt.IsZero() {
		return time.Time{}
	}
	return releasedAt.Add(m.cooldown)
}

func (m moment) free(releasedAt time.Time) bool { return !m.freeAt(releasedAt).After(m.now) }

// candidate returns the address that the block would allocate next, with the
// time of its release.
func (b *block) candidate(m moment) (released, bool) {
	if b.next.IsValid() && m.free(time.Time{}) {
		return released{addr: b.next}, true
	}
	if len(b.released) > 0 && m.free(b.released[0].at) {
		return b.released[0], true
	}
	return released{}, false
}

// cooling counts the addresses that are still cooling.
func (b *block) cooling(m moment) int {
	if !m.free(time.Time{}) {
		return b.size() - len(b.used)
	}
	n := 0
	for i := len(b.released) - 1; i >= 0 && !m.free(b.released[i].at); i-- {
		n++
	}
	return n
}

// nextFree returns when the first cooldown ends; zero if no address is cooling.
func (b *block) nextFree(m moment) time.Time {
	if b.next.IsValid() && !m.free(time.Time{}) {
		return m.freeAt(time.Time{})
	}
	for _, r := range b.released {
		if !m.free(r.at) {
			return m.freeAt(r.at)
		}
	}
	return time.Time{}
}
