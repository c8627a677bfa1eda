// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"net/netip"
	"slices"
	"testing"
)

// TestNextVPC checks that a new prefix counts at once, and that a prefix is dropped
// only if two updates in a row do not show it.
func TestNextVPC(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("172.16.0.0/16")
	list := func(p ...netip.Prefix) []netip.Prefix { return p }
	prefixes, missing := list(a, b), list()
	for i, update := range []struct{ shown, want []netip.Prefix }{
		{list(b, a), list(a, b)},
		{list(a, c), list(a, b, c)}, // b is missing for the first time
		{list(c, b, a), list(a, b, c)},
		{list(a, c), list(a, b, c)},
		{list(a, c), list(a, c)},
	} {
		prefixes, missing = nextVPC(prefixes, update.shown, missing)
		if !slices.Equal(prefixes, update.want) {
			t.Fatalf("update %d: %v, want %v", i, prefixes, update.want)
		}
	}
}
