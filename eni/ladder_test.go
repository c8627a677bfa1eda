// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestClimb(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	soon := now.Add(time.Minute)
	for _, c := range []struct {
		name  string
		want  want
		rests map[string]rest
		rungs []rung
	}{
		{"prefixes with a way out", want{Prefixes: 3, Singles: 2}, nil, []rung{
			{"a", 3, 0}, {"b", 3, 0}, {"a", 1, 0}, {"b", 1, 0}, {"a", 0, 2}, {"b", 0, 2}, {"a", 0, 1}, {"b", 0, 1},
		}},
		{"prefixes only", want{Prefixes: 1}, nil, []rung{{"a", 1, 0}, {"b", 1, 0}}},
		{"singles only", want{Singles: 4}, nil, []rung{{"a", 0, 4}, {"b", 0, 4}, {"a", 0, 1}, {"b", 0, 1}}},
		{"no prefix in a", want{Prefixes: 1, Singles: 1}, map[string]rest{"a": {prefixes: soon}}, []rung{{"b", 1, 0}, {"a", 0, 1}, {"b", 0, 1}}},
		{"a full", want{Prefixes: 1, Singles: 1}, map[string]rest{"a": {all: soon}}, []rung{{"b", 1, 0}, {"b", 0, 1}}},
		{"both full", want{Singles: 1}, map[string]rest{"a": {all: soon}, "b": {all: soon}}, nil},
		{"rested enough", want{Singles: 1}, map[string]rest{"a": {all: now}}, []rung{{"a", 0, 1}, {"b", 0, 1}}},
	} {
		if diff := cmp.Diff(c.rungs, climb([]string{"a", "b"}, c.want, c.rests, now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestFell(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.Add(ladderRest)
	for _, c := range []struct {
		rung rung
		why  Reason
		want rest
	}{
		{rung{"a", 3, 0}, ReasonNoFreePrefix, rest{}}, // one may be free
		{rung{"a", 1, 0}, ReasonNoFreePrefix, rest{prefixes: later}},
		{rung{"a", 0, 3}, ReasonSubnetFull, rest{}},
		{rung{"a", 0, 1}, ReasonSubnetFull, rest{all: later}},
		{rung{"a", 0, 1}, ReasonThrottled, rest{}},
	} {
		rests := map[string]rest{}
		if fell(rests, c.rung, c.why, now); rests["a"] != c.want {
			t.Errorf("%+v, %s: %+v", c.rung, c.why, rests["a"])
		}
	}
}

func TestStick(t *testing.T) {
	for last, want := range map[string][]string{"": {"a", "b", "c"}, "a": {"a", "b", "c"}, "c": {"c", "a", "b"}, "x": {"a", "b", "c"}} {
		if got := stick([]string{"a", "b", "c"}, last); !slices.Equal(got, want) {
			t.Errorf("last %q: %v", last, got)
		}
	}
}

func TestFreePlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		card  int
		limit int
		taken []place
		want  int // 0 means none
	}{
		{"first", 0, 3, []place{{0, 0}}, 1},
		{"a gap", 0, 4, []place{{0, 0}, {0, 1}, {0, 3}}, 2},
		{"full", 0, 3, []place{{0, 0}, {0, 1}, {0, 7}}, 0},
		{"other cards do not count", 1, 2, []place{{0, 0}, {0, 1}, {1, 1}}, 2},
		{"a card without the primary ENI", 3, 1, nil, 1},
		{"no such card", 9, 0, nil, 0},
	} {
		got, ok := freePlace(c.card, c.limit, c.taken)
		if ok != (c.want > 0) || got.Device != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
}

func TestCardLimit(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := Limits{Cards: []int{4, 2}}
	for _, c := range []struct {
		name    string
		cfg     Config
		card    int
		refused map[int]refusal
		want    int
	}{
		{"by type", Config{}, 0, nil, 4},
		{"second card", Config{}, 1, nil, 2},
		{"no such card", Config{}, 2, nil, 0},
		{"capped", Config{MaxENIs: 3}, 0, nil, 3},
		{"capped above the type", Config{MaxENIs: 3}, 1, nil, 2},
		{"one reserved", Config{ReserveENIs: 1}, 0, nil, 3},
		{"one reserved, on the default card only", Config{ReserveENIs: 1}, 1, nil, 2},
		{"refused", Config{}, 0, map[int]refusal{0: {most: 3, until: now.Add(1)}}, 3},
		{"refused long ago", Config{}, 0, map[int]refusal{0: {most: 3, until: now}}, 4},
	} {
		if got := cardLimit(l, c.cfg, c.card, c.refused, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestFreeVLAN(t *testing.T) {
	all := map[int]bool{}
	for id := 1; id <= vlanMost; id++ {
		all[id] = true
	}
	for want, used := range map[int]map[int]bool{1: nil, 3: {1: true, 2: true, 4: true}, 0: all} {
		if got := freeVLAN(used); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}
