// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
)

// nftAddr returns the address that an nftables element or expression has.
func nftAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// nftAttributes iterates over the attributes of an nftables element.
func nftAttributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		attrs, err := nl.ParseRouteAttr(b)
		for _, a := range attrs {
			if err != nil || !yield(a.Attr.Type&^(nl.NLA_F_NESTED|nl.NLA_F_NET_BYTEORDER), a.Value) {
				return
			}
		}
	}
}
