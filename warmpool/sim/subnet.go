// SPDX-License-Identifier: Apache-2.0

package sim

import "math/rand/v2"

// subnet counts the free addresses of each /28 block.
type subnet struct {
	rng  *rand.Rand
	free []int8
	// total free addresses, whole free blocks, and the most ever used by us.
	total, whole int
	used, high   int
}

const blockSize = 16

func newSubnet(c Subnet, rng *rand.Rand) *subnet {
	s := &subnet{rng: rng, free: make([]int8, max(1, c.Addresses/blockSize))}
	for i := range s.free {
		s.free[i] = blockSize
	}
	s.free[0] -= 4 // EC2's own: network, router, DNS, reserve
	s.free[len(s.free)-1]--
	for i := range s.free {
		if rng.Float64() < c.Fragmented {
			s.free[i] -= int8(1 + rng.IntN(4))
		}
		s.total += int(s.free[i])
		if s.free[i] == blockSize {
			s.whole++
		}
	}
	return s
}

// noBlock is returned when nothing is left.
const noBlock = -1

// pick finds a block with at least so many free addresses: at random, and when
// luck runs out by looking at all from a random one on.
func (s *subnet) pick(atLeast int8) int {
	for range 8 {
		if b := s.rng.IntN(len(s.free)); s.free[b] >= atLeast {
			return b
		}
	}
	first := s.rng.IntN(len(s.free))
	for i := range s.free {
		if b := (first + i) % len(s.free); s.free[b] >= atLeast {
			return b
		}
	}
	return noBlock
}

// take takes one address, or with unit 16 a whole block, and returns the block.
func (s *subnet) take(unit int) int {
	if s.total == 0 || unit > 1 && s.whole == 0 {
		return noBlock
	}
	b := s.pick(int8(unit))
	if b == noBlock {
		return noBlock
	}
	s.change(b, -unit)
	s.high = max(s.high, s.used)
	return b
}

// give takes it back.
func (s *subnet) give(block, unit int) { s.change(block, unit) }

func (s *subnet) change(block, by int) {
	if s.free[block] == blockSize {
		s.whole--
	}
	s.free[block] += int8(by)
	s.total += by
	s.used -= by
	if s.free[block] == blockSize {
		s.whole++
	}
}
