// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"slices"
	"time"
)

// historyWindow is how far a lag can look back.
const historyWindow = 10 * time.Minute

// history holds the recent versions of one object, the oldest first. Versions
// are never changed in place; a nil value means that the object is gone.
type history[T any] struct {
	versions []version[T]
}

type version[T any] struct {
	at    time.Time
	value *T
}

// set makes value the current version from now on and drops those that no lag
// can show any more.
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

// dead reports whether the object is gone and no lag can show it any more.
func (h *history[T]) dead(now time.Time) bool {
	last := h.versions[len(h.versions)-1]
	return last.value == nil && last.at.Before(now.Add(-historyWindow))
}

// seen returns the objects that existed at t, by ID.
func seen[T any](all map[string]*history[T], t time.Time) []*T {
	var found []*T
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if v := all[id].at(t); v != nil {
			found = append(found, v)
		}
	}
	return found
}
