// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unique"
)

// label is a label of an object.
type label struct{ key, value string }

// labels are the labels of an object in the order of their keys.
type labels []label

// labelsOf copies labels. Equal strings share memory: thousands of pods have the same ones.
func labelsOf(all map[string]string) labels {
	out := make(labels, 0, len(all))
	for key, value := range all {
		out = append(out, label{intern(key), intern(value)})
	}
	slices.SortFunc(out, func(a, b label) int { return cmp.Compare(a.key, b.key) })
	return out
}

func intern(s string) string { return unique.Make(s).Value() }

func (l labels) value(key string) (string, bool) {
	for _, x := range l {
		if x.key == key {
			return x.value, true
		}
	}
	return "", false
}

// matcher is a selector in a form that is quick to match. A nil matcher matches everything.
type matcher []Expression

// matcherOf returns the matcher of a selector. Equal selectors have equal matchers, in whatever
// order they are written.
func matcherOf(s Selector) matcher {
	var m matcher
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		m = append(m, Expression{Key: key, Operator: In, Values: []string{s.Labels[key]}})
	}
	for _, e := range s.Expressions {
		e.Values = slices.Compact(slices.Sorted(slices.Values(e.Values)))
		m = append(m, e)
	}
	slices.SortFunc(m, func(a, b Expression) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Operator, b.Operator), slices.Compare(a.Values, b.Values))
	})
	return m
}

// key returns a text that only equal matchers have.
func (m matcher) key() string {
	var b strings.Builder
	for _, e := range m {
		fmt.Fprintf(&b, "%q %s %q,", e.Key, e.Operator, e.Values)
	}
	return b.String()
}

func (m matcher) matches(l labels) bool {
	for _, e := range m {
		if !e.holds(l) {
			return false
		}
	}
	return true
}

func (e Expression) holds(l labels) bool {
	value, has := l.value(e.Key)
	switch e.Operator {
	case In:
		return has && slices.Contains(e.Values, value)
	case NotIn:
		return len(e.Values) > 0 && !(has && slices.Contains(e.Values, value))
	case Exists:
		return has && len(e.Values) == 0
	case DoesNotExist:
		return !has && len(e.Values) == 0
	}
	return false
}
