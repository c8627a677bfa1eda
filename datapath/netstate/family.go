// SPDX-License-Identifier: Apache-2.0

package netstate

import (
	"iter"
	"net/netip"
)

// Family is an address family of the Internet protocol. The zero value is IPv4.
type Family uint8

// The address families.
const (
	IPv4 Family = iota
	IPv6
)

// FamilyOf returns the family of a. An IPv4-mapped IPv6 address counts as IPv6, as netip.Addr.Is4 has it,
// and so does the zero Addr.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Families iterates over all address families, IPv4 first.
func Families() iter.Seq[Family] {
	return func(yield func(Family) bool) {
		_ = yield(IPv4) && yield(IPv6)
	}
}

// Is6 reports whether f is IPv6.
func (f Family) Is6() bool { return f == IPv6 }

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}
