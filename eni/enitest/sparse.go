// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/binary"
	"net/netip"
)

// sparse is the IPv6 address space of a subnet: a /64 divided into 65536 /80s. It
// holds only the addresses and blocks that are taken.
type sparse struct {
	prefix netip.Prefix
	blocks map[netip.Prefix]bool
	addrs  map[netip.Addr]bool
	// inBlock counts the single addresses of each /80.
	inBlock map[netip.Prefix]int
	// draws counts the candidates that pick has tried, so that each candidate
	// differs from those before.
	draws uint64
}

func newSparse(prefix netip.Prefix) *sparse {
	return &sparse{
		prefix:  prefix,
		blocks:  map[netip.Prefix]bool{},
		addrs:   map[netip.Addr]bool{},
		inBlock: map[netip.Prefix]int{},
	}
}

// blockOf returns the /80 that contains a.
func blockOf(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 80).Masked() }

func (s *sparse) busy(p netip.Prefix) bool {
	if s.blocks[blockOf(p.Addr())] || s.awsOwned(p) {
		return true
	}
	if p.IsSingleIP() {
		return s.addrs[p.Addr()]
	}
	return s.inBlock[p] > 0
}

// awsOwned reports whether p contains one of the five addresses that AWS reserves
// in each subnet: the first four and the last.
func (s *sparse) awsOwned(p netip.Prefix) bool {
	for _, suffix := range []uint64{0, 1, 2, 3, 1<<64 - 1} {
		if p.Contains(s.addr(suffix)) {
			return true
		}
	}
	return false
}

func (s *sparse) take(p netip.Prefix) {
	if !p.IsSingleIP() {
		s.blocks[p] = true
		return
	}
	s.addrs[p.Addr()] = true
	s.inBlock[blockOf(p.Addr())]++
}

func (s *sparse) release(p netip.Prefix) {
	if !p.IsSingleIP() {
		delete(s.blocks, p)
		return
	}
	delete(s.addrs, p.Addr())
	s.inBlock[blockOf(p.Addr())]--
}

// addr returns the address of the subnet with the given low 64 bits.
func (s *sparse) addr(suffix uint64) netip.Addr {
	a := s.prefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], suffix)
	return netip.AddrFrom16(a)
}

// pick takes a free address, or a free /80 if block is true, for which allowed
// returns true. Its choice looks random, as EC2's does, but is the same in each
// run.
func (s *sparse) pick(block bool, allowed func(netip.Prefix) bool) (netip.Prefix, bool) {
	for range 1 << 16 {
		s.draws++
		p := single(s.addr(scramble(s.draws)))
		if block {
			// Multiples of an odd factor reach all 65536 blocks before one repeats.
			p = blockOf(s.addr(s.draws * 0x9e37 << 48))
		}
		if !s.busy(p) && allowed(p) {
			s.take(p)
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// scramble permutes the 64-bit numbers (it is the finalizer of splitmix64). It
// turns consecutive numbers into IDs that already differ in their first digits.
func scramble(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// blockWithin takes a free /80 out of r.
func (s *sparse) blockWithin(r netip.Prefix) (netip.Prefix, bool) {
	if !r.Addr().Is6() || r.Bits() > 80 {
		return netip.Prefix{}, false
	}
	a := r.Addr().As16()
	first := binary.BigEndian.Uint64(a[8:])
	for i := range uint64(1) << (80 - r.Bits()) {
		if p := blockOf(s.addr(first + i<<48)); !s.busy(p) {
			s.take(p)
			return p, true
		}
	}
	return netip.Prefix{}, false
}
