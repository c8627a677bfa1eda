// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"slices"
	"testing"
)

// TestReasons checks that the list is complete, and that each reason except
// ReasonUnknown has its own sentinel.
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

// TestNewOpError checks the methods of an error that another package constructs.
func TestNewOpError(t *testing.T) {
	cause := errors.New("no route")
	err := NewOpError("find the region", ReasonNoMetadata, cause)
	if !errors.Is(err, ErrNoMetadata) || !errors.Is(err, cause) || err.Reason() != "no-metadata" || err.RetryAfter() != 0 {
		t.Errorf("%#v", err)
	}
	if got, want := err.Error(), "find the region: no-metadata: no route"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}
