// SPDX-License-Identifier: Apache-2.0

package sim

import "math/rand/v2"

// subnet counts the free addresses of each /28 block.
type subnet struct {
	rng  *rand.Rand
	free []int8
	// freeTotal counts free addresses, wholeBlocks blocks without a used address,
	// used the addresses that the fleet uses; highWater is the maximum of used.
	freeTotal, wholeBlocks int
	used, highWater        int
}

const blockSize = 16

func newSubnet(c Subnet, rng *rand.Rand) *subnet {
	s := &subnet{rng: rng, free: make([]int8, max(1, c.Addresses/blockSize))}
	for i := range s.free {
		s.free[i] = blockSize
	}
	s.free[0] -= 4 // reserved by EC2: network, router, DNS, future use
	s.free[len(s.free)-1]--
	for i := range s.free {
		if rng.Float64() < c.Fragmented {
			s.free[i] -= int8(1 + rng.IntN(4))
		}
		s.freeTotal += int(s.free[i])
		if s.free[i] == blockSize {
			s.wholeBlocks++
		}
	}
	return s
}

// noBlock is returned when no block fits.
const noBlock = -1

// pick returns a block with at least the given number of free addresses. It tries
// random blocks, and then all blocks in order from a random one.
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

// take takes one address, or a whole block if unit is 16, and returns the block.
func (s *subnet) take(unit int) int {
	if s.freeTotal == 0 || unit > 1 && s.wholeBlocks == 0 {
		return noBlock
	}
	b := s.pick(int8(unit))
	if b == noBlock {
		return noBlock
	}
	s.change(b, -unit)
	s.highWater = max(s.highWater, s.used)
	return b
}

// give returns what take has taken.
func (s *subnet) give(block, unit int) { s.change(block, unit) }

func (s *subnet) change(block, by int) {
	if s.free[block] == blockSize {
		s.wholeBlocks--
	}
	s.free[block] += int8(by)
	s.freeTotal += by
	s.used -= by
	if s.free[block] == blockSize {
		s.wholeBlocks++
	}
}
