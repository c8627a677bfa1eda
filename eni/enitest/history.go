// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"slices"
	"time"
)

// historyWindow is the longest lag: how long old versions are kept.
const historyWindow = 10 * time.Minute

// history holds the recent versions of one object, the oldest first. A version
// is never changed in place. A nil value means that the object was deleted.
type history[T any] struct {
	versions []version[T]
}

type version[T any] struct {
	at    time.Time
	value *T
}

// set makes value the current version from now on, and drops the versions that
// are too old for any lag.
func (h *history[T]) set(now time.Time, value *T) {
	old := 0
	for old+1 < len(h.versions) && h.versions[old+1].at.Before(now.Add(-historyWindow)) {
		old++
	}
	h.versions = append(slices.Delete(h.versions, 0, old), version[T]{now, value})
}

// at returns the version that was current at t, nil if there was none.
func (h *history[T]) at(t time.Time) *T {
	if h == nil {
		return nil
	}
	for i := len(h.versions) - 1; i >= 0; i-- {
		if !h.versions[i].at.After(t) {
			return h.versions[i].value
		}
	}
	return nil
}

// expired reports whether the object was deleted too long ago for any lag.
func (h *history[T]) expired(now time.Time) bool {
	last := h.versions[len(h.versions)-1]
	return last.value == nil && last.at.Before(now.Add(-historyWindow))
}

// existing returns the objects that existed at t, sorted by ID.
func existing[T any](all map[string]*history[T], t time.Time) []*T {
	var found []*T
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if v := all[id].at(t); v != nil {
			found = append(found, v)
		}
	}
	return found
}
