// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
)

// ActionNames returns the names of all actions of the API.
func ActionNames() []string { return slices.Sorted(maps.Keys(actions())) }

// TaggedKinds returns the names of the kinds of resources that the API can create.
func TaggedKinds() []string {
	t := New(Config{}).begin()
	defer t.end()
	var names []string
	for _, k := range t.taggedKinds() {
		names = append(names, k.name)
	}
	return names
}

// Owned returns every address and prefix of the ENI.
func (e ENI) Owned() []netip.Prefix { return e.owned() }
