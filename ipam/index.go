// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// blockOf returns the block that contains a, or nil.
func (s *state) blockOf(a netip.Addr) *block {
	for bits := range s.bits {
		if p, err := a.Prefix(bits); err == nil {
			if b := s.blocks[p]; b != nil {
				return b
			}
		}
	}
	return nil
}

// overlapping returns a block that overlaps p, or nil.
func (s *state) overlapping(p netip.Prefix) *block {
	if b := s.blockOf(p.Addr()); b != nil {
		return b
	}
	if p.IsSingleIP() {
		return nil
	}
	for q, b := range s.blocks {
		if p.Overlaps(q) {
			return b
		}
	}
	return nil
}

func (s *state) indexBlock(b *block) {
	s.blocks[b.Prefix] = b
	s.bits[b.Prefix.Bits()]++
	r := resource{b.eni.Card, FamilyOf(b.Prefix.Addr())}
	s.byResource[r] = insertBlock(s.byResource[r], b)
	b.eni.blocks = insertBlock(b.eni.blocks, b)
}

func (s *state) unindexBlock(b *block) {
	delete(s.blocks, b.Prefix)
	if s.bits[b.Prefix.Bits()]--; s.bits[b.Prefix.Bits()] == 0 {
		delete(s.bits, b.Prefix.Bits())
	}
	same := func(o *block) bool { return o == b }
	r := resource{b.eni.Card, FamilyOf(b.Prefix.Addr())}
	s.byResource[r] = slices.DeleteFunc(s.byResource[r], same)
	b.eni.blocks = slices.DeleteFunc(b.eni.blocks, same)
}

func insertBlock(blocks []*block, b *block) []*block {
	i, _ := slices.BinarySearchFunc(blocks, b, compareBlocks)
	return slices.Insert(blocks, i, b)
}

func compareBlocks(a, b *block) int {
	return cmp.Or(compareENIs(a.eni, b.eni), a.Prefix.Addr().Compare(b.Prefix.Addr()))
}

func compareENIs(a, b *eni) int {
	return cmp.Or(cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device), cmp.Compare(a.ID, b.ID))
}
