// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
)

// ActionNames returns the names of all actions of the API.
func ActionNames() []string { return slices.Sorted(maps.Keys(actions())) }

// Owned returns every address and prefix of the ENI.
func (e ENI) Owned() []netip.Prefix { return e.owned() }
