// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
)

// attributes iterates over the attributes in b, without the flags of their types. It ends
// at one that does not fit. Function ParseRouteAttr of package nl, which returns a slice
// of them, costs an ADD 5 % of its time, and panics if the last attribute is not padded.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (nl.NLA_F_NESTED | nl.NLA_F_NET_BYTEORDER)
			if size < 4 || size > len(b) || !yield(kind, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// number returns an attribute of one byte or four. It returns 0 for one of another
// size.
func number(b []byte) int {
	switch len(b) {
	case 1:
		return int(b[0])
	case 4:
		return int(binary.NativeEndian.Uint32(b))
	}
	return 0
}

// addr returns an address attribute. It returns the zero Addr for one of another size.
func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
