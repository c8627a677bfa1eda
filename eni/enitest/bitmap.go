// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// bitmap holds the IPv4 addresses of a subnet that are in use, one bit each.
type bitmap struct {
	prefix netip.Prefix
	base   uint32
	size   int
	words  []uint64
	free   int
}

// newBitmap returns the bitmap of a subnet between /16 and /28, or an empty one
// for a subnet without IPv4. AWS reserves the first four addresses and the last:
// https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html
func newBitmap(prefix netip.Prefix) *bitmap {
	if !prefix.IsValid() {
		return &bitmap{}
	}
	size := 1 << (32 - prefix.Bits())
	base := prefix.Addr().As4()
	b := &bitmap{
		prefix: prefix,
		base:   binary.BigEndian.Uint32(base[:]),
		size:   size,
		words:  make([]uint64, (size+63)/64),
		free:   size,
	}
	for _, i := range []int{0, 1, 2, 3, size - 1} {
		b.set(i, 1)
	}
	return b
}

// index returns the index of the first address of p in the subnet, and the number
// of addresses in p.
func (b *bitmap) index(p netip.Prefix) (first, n int) {
	a := p.Addr().As4()
	return int(binary.BigEndian.Uint32(a[:]) - b.base), 1 << (32 - p.Bits())
}

func (b *bitmap) addr(i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], b.base+uint32(i))
	return netip.AddrFrom4(a)
}

// mask returns the bits of n addresses, from first on, in their word. n must be a
// power of two of at most 16 and first a multiple of n, so that they share a word.
func mask(first, n int) uint64 { return (1<<n - 1) << (first % 64) }

func (b *bitmap) used(first, n int) bool { return b.words[first/64]&mask(first, n) != 0 }

func (b *bitmap) set(first, n int) {
	b.words[first/64] |= mask(first, n)
	b.free -= n
}

func (b *bitmap) clear(first, n int) {
	b.words[first/64] &^= mask(first, n)
	b.free += n
}

// nextFree returns the index of the lowest free address from i on, -1 if there is
// none.
func (b *bitmap) nextFree(i int) int {
	for i < b.size {
		word := ^b.words[i/64] >> (i % 64)
		if word == 0 {
			i = (i/64 + 1) * 64
			continue
		}
		i += bits.TrailingZeros64(word)
		if i < b.size {
			return i
		}
	}
	return -1
}

// blockSize is the number of addresses in a delegated IPv4 prefix.
const blockSize = 16
