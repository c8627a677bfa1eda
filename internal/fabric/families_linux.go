// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"net/netip"
	"os"
	"slices"
)

// A kernel may have no IPv6, for instance if it was booted with ipv6.disable=1. The VPC
// then has IPv4 only.

// hasIPv6 reports whether the kernel has IPv6.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// usable returns the addresses of the families that the kernel has.
func usable(addrs ...netip.Addr) []netip.Addr {
	if hasIPv6() {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), netip.Addr.Is6)
}

// usablePrefixes returns the prefixes of the families that the kernel has.
func usablePrefixes(prefixes []netip.Prefix) []netip.Prefix {
	if hasIPv6() {
		return prefixes
	}
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().Is6() })
}
