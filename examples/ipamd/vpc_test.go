// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"
)

// TestNextVPC: a prefix that is new counts at once, one that is missing only when
// two looks in a row miss it.
func TestNextVPC(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("172.16.0.0/16")
	list := func(p ...netip.Prefix) []netip.Prefix { return p }
	had, missed := list(a, b), list()
	for i, look := range []struct{ shown, want []netip.Prefix }{
		{list(b, a), list(a, b)},
		{list(a, c), list(a, b, c)}, // b is missed for the first time
		{list(c, b, a), list(a, b, c)},
		{list(a, c), list(a, b, c)},
		{list(a, c), list(a, c)},
	} {
		had, missed = nextVPC(had, look.shown, missed)
		if !slices.Equal(had, look.want) {
			t.Fatalf("look %d: %v, want %v", i, had, look.want)
		}
	}
}
