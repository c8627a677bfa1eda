// SPDX-License-Identifier: Apache-2.0

package enitest

import "net/netip"

// space is the address space of one subnet: the addresses and blocks that are
// taken. Single addresses are prefixes of full length.
type space struct {
	v4 *bitmap
	v6 *sparse
	// reserved holds the subnet CIDR reservations, by type.
	reserved map[string][]netip.Prefix
}

func newSpace(v4, v6 netip.Prefix) *space {
	s := &space{v4: newBitmap(v4), reserved: map[string][]netip.Prefix{}}
	if v6.IsValid() {
		s.v6 = newSparse(v6)
	}
	return s
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// contains reports whether p lies within the subnet.
func (s *space) contains(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return s.v4.prefix.Contains(p.Addr()) && p.Bits() >= s.v4.prefix.Bits()
	}
	return s.v6 != nil && p.Bits() >= s.v6.prefix.Bits() && s.v6.prefix.Contains(p.Addr())
}

// busy reports whether any address of p is taken. The subnet must contain p.
func (s *space) busy(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return s.v4.used(s.v4.index(p))
	}
	return s.v6.busy(p)
}

// take marks p as taken. It must not be busy.
func (s *space) take(p netip.Prefix) {
	if p.Addr().Is4() {
		s.v4.set(s.v4.index(p))
		return
	}
	s.v6.take(p)
}

func (s *space) release(p netip.Prefix) {
	if p.Addr().Is4() {
		s.v4.clear(s.v4.index(p))
		return
	}
	s.v6.release(p)
}

// pickAddr takes a free IPv4 address that no reservation covers.
func (s *space) pickAddr() (netip.Prefix, bool) {
	for i := s.v4.nextFree(0); i >= 0; i = s.v4.nextFree(i + 1) {
		a := s.v4.addr(i)
		if r, ok := s.reservation(a); ok {
			first, n := s.v4.index(r.Masked())
			i = first + n - 1
			continue
		}
		s.v4.set(i, 1)
		return single(a), true
	}
	return netip.Prefix{}, false
}

// pickBlock takes a free aligned /28. It tries the reservations for prefixes
// first, and then the addresses that no reservation covers.
func (s *space) pickBlock() (netip.Prefix, bool) {
	for _, r := range s.reserved["prefix"] {
		if p, ok := s.blockWithin(r); ok {
			return p, true
		}
	}
	for i := 0; i < s.v4.size; i += blockSize {
		p := netip.PrefixFrom(s.v4.addr(i), 28)
		if !s.v4.used(i, blockSize) && !s.reservedAny(p) {
			s.v4.set(i, blockSize)
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (s *space) blockWithin(r netip.Prefix) (netip.Prefix, bool) {
	if !r.Addr().Is4() || r.Bits() > 28 {
		return netip.Prefix{}, false
	}
	first, n := s.v4.index(r)
	for i := first; i < first+n; i += blockSize {
		if !s.v4.used(i, blockSize) {
			s.v4.set(i, blockSize)
			return netip.PrefixFrom(s.v4.addr(i), 28), true
		}
	}
	return netip.Prefix{}, false
}

// reservation returns the reservation that covers a.
func (s *space) reservation(a netip.Addr) (netip.Prefix, bool) {
	for _, rs := range s.reserved {
		for _, r := range rs {
			if r.Contains(a) {
				return r, true
			}
		}
	}
	return netip.Prefix{}, false
}

func (s *space) reservedAny(p netip.Prefix) bool {
	for _, rs := range s.reserved {
		for _, r := range rs {
			if r.Overlaps(p) {
				return true
			}
		}
	}
	return false
}
