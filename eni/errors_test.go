// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"testing"
)

// TestReasons: the list is complete, and each reason but the unknown one has a
// sentinel of its own.
func TestReasons(t *testing.T) {
	all := Reasons()
	for r := range sentinels {
		if !slices.Contains(all, r) {
			t.Errorf("Reasons lacks %s", r)
		}
	}
	if len(all) != len(sentinels)+1 || !slices.Contains(all, ReasonUnknown) {
		t.Errorf("%d reasons, %d sentinels", len(all), len(sentinels))
	}
}
