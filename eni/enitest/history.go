// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// historyWindow is the longest lag: how long old versions are kept.
const historyWindow = 10 * time.Minute

// table holds the recent versions of all resources of one kind, by ID. Every kind of
// resource is in a table, so that the lags of answers and of calls are the same for
// all kinds.
type table[T any] map[string]*history[T]

// at returns the resource as it was at the given time, nil if it did not exist.
func (tb table[T]) at(id string, at time.Time) *T { return tb[id].at(at) }

// all returns the resources that existed at the given time, sorted by ID.
func (tb table[T]) all(at time.Time) []*T { return existing(tb, at) }

// shown returns the resource as the answer of the transaction shows it. Where another
// resource in the answer refers to one that the lag still hides, this is its current
// version, and without that an empty one.
func (tb table[T]) shown(t *tx, id string) *T {
	return cmp.Or(tb.at(id, t.view), tb.at(id, t.now), new(T))
}

// found returns the resource that a call names, nil if the call does not find it: Lag.Write
// hides a resource from the calls for some time after the call that created it.
func (tb table[T]) found(t *tx, id string) *T {
	h := tb[id]
	if h == nil || t.now.Before(h.createdByCall.Add(t.c.lag.Write)) {
		return nil
	}
	return h.at(t.now)
}

// set makes value the version of the resource from now on; nil deletes it.
func (tb table[T]) set(t *tx, id string, value *T) { tb.setAt(t, t.now, id, value) }

func (tb table[T]) setAt(t *tx, at time.Time, id string, value *T) {
	h := tb[id]
	if h == nil {
		h = &history[T]{}
		if t.call {
			h.createdByCall = t.now
		}
		tb[id] = h
	}
	h.set(at, value)
	if value == nil {
		maps.DeleteFunc(tb, func(_ string, h *history[T]) bool { return h.expired(t.now) })
	}
}

// history holds the recent versions of one object, the oldest first. A version
// is never changed in place. A nil value means that the object was deleted.
type history[T any] struct {
	versions []version[T]
	// createdByCall is when a call of the API created the object. It is zero if a method
	// of Cloud did.
	createdByCall time.Time
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
