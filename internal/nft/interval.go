// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// bound is one end of an interval of addresses as the kernel holds it: the first
// address, or with end the address after the last.
type bound struct {
	addr  netip.Addr
	end   bool
	chain string // the verdict of the first address in a map
}

// boundsOf returns the two ends of an element, or only the first if the element
// includes the last address of its family.
func boundsOf(e Element) []bound {
	first := bound{addr: e.Prefix.Masked().Addr(), chain: e.Chain}
	if end := LastAddr(e.Prefix).Next(); end.IsValid() {
		return []bound{first, {addr: end, end: true}}
	}
	return []bound{first}
}

// elementsOf pairs the ends of intervals, which may be in any order. An interval that is
// not a prefix is an error.
func elementsOf(bounds []bound) ([]Element, error) {
	slices.SortFunc(bounds, func(a, b bound) int {
		order := map[bool]int{true: 0, false: 1} // an interval ends where the next begins
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(order[a.end], order[b.end]))
	})
	var all []Element
	for i, b := range bounds {
		if b.end {
			continue
		}
		last := LastAddr(netip.PrefixFrom(b.addr, 0))
		if i+1 < len(bounds) {
			last = bounds[i+1].addr.Prev()
		}
		p, ok := prefixOf(b.addr, last)
		if !ok {
			return nil, fmt.Errorf("has the range %v-%v, which is not a prefix", b.addr, last)
		}
		all = append(all, Element{Prefix: p, Chain: b.chain})
	}
	return all, nil
}

// prefixOf returns the prefix from first to last, if they are the ends of one.
func prefixOf(first, last netip.Addr) (netip.Prefix, bool) {
	length := 0
	a, b := first.AsSlice(), last.AsSlice()
	if len(a) != len(b) {
		return netip.Prefix{}, false
	}
	for i := range a {
		n := bits.LeadingZeros8(a[i] ^ b[i])
		length += n
		if n < 8 {
			break
		}
	}
	p := netip.PrefixFrom(first, length)
	return p, p.Masked() == p && LastAddr(p) == last
}

// LastAddr returns the last address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
