// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

func TestListAttempts(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	soon := now.Add(time.Minute)
	for _, c := range []struct {
		name      string
		want      slotRequest
		exhausted map[string]exhaustion
		attempts  []attempt
	}{
		{"prefixes, or else single addresses", slotRequest{Prefixes: 3, Singles: 2}, nil, []attempt{
			{"a", 3, 0}, {"b", 3, 0}, {"a", 1, 0}, {"b", 1, 0}, {"a", 0, 2}, {"b", 0, 2}, {"a", 0, 1}, {"b", 0, 1},
		}},
		{"prefixes only", slotRequest{Prefixes: 1}, nil, []attempt{{"a", 1, 0}, {"b", 1, 0}}},
		{"singles only", slotRequest{Singles: 4}, nil, []attempt{{"a", 0, 4}, {"b", 0, 4}, {"a", 0, 1}, {"b", 0, 1}}},
		{"no prefix in a", slotRequest{Prefixes: 1, Singles: 1}, map[string]exhaustion{"a": {prefixes: soon}}, []attempt{{"b", 1, 0}, {"a", 0, 1}, {"b", 0, 1}}},
		{"a full", slotRequest{Prefixes: 1, Singles: 1}, map[string]exhaustion{"a": {all: soon}}, []attempt{{"b", 1, 0}, {"b", 0, 1}}},
		{"both full", slotRequest{Singles: 1}, map[string]exhaustion{"a": {all: soon}, "b": {all: soon}}, nil},
		{"a full until now", slotRequest{Singles: 1}, map[string]exhaustion{"a": {all: now}}, []attempt{{"a", 0, 1}, {"b", 0, 1}}},
	} {
		if diff := cmp.Diff(c.attempts, listAttempts([]string{"a", "b"}, c.want, c.exhausted, now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestMarkExhausted(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.Add(exhaustedFor)
	for _, c := range []struct {
		attempt attempt
		reason  Reason
		want    exhaustion
	}{
		{attempt{"a", 3, 0}, ReasonNoFreePrefix, exhaustion{}}, // a single prefix may be free
		{attempt{"a", 1, 0}, ReasonNoFreePrefix, exhaustion{prefixes: later}},
		{attempt{"a", 0, 3}, ReasonSubnetFull, exhaustion{}},
		{attempt{"a", 0, 1}, ReasonSubnetFull, exhaustion{all: later}},
		{attempt{"a", 0, 1}, ReasonThrottled, exhaustion{}},
	} {
		exhausted := map[string]exhaustion{}
		markExhausted(exhausted, c.attempt, c.reason, now)
		if exhausted["a"] != c.want {
			t.Errorf("after %+v with %s: %+v, want %+v", c.attempt, c.reason, exhausted["a"], c.want)
		}
	}
}

func TestPreferSubnet(t *testing.T) {
	for last, want := range map[string][]string{"": {"a", "b", "c"}, "a": {"a", "b", "c"}, "c": {"c", "a", "b"}, "x": {"a", "b", "c"}} {
		if got := preferSubnet([]string{"a", "b", "c"}, last); !slices.Equal(got, want) {
			t.Errorf("last %q: %v, want %v", last, got, want)
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
			t.Errorf("%s: %+v, %v, want device %d", c.name, got, ok, c.want)
		}
	}
}

func TestCardLimit(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := instancetype.Limits{Cards: []int{4, 2}}
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
		{"refused", Config{}, 0, map[int]refusal{0: {count: 3, until: now.Add(1)}}, 3},
		{"refused long ago", Config{}, 0, map[int]refusal{0: {count: 3, until: now}}, 4},
	} {
		m := &Manager{cfg: c.cfg, placement: placement{maxENIs: c.cfg.MaxENIs}, cardRefusals: c.refused}
		if got := m.cardLimitLocked(l, c.card, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestSafeLimits checks the limits for an unknown instance type: 2 ENIs with 3
// secondary addresses each, and 2 pods on the host network.
func TestSafeLimits(t *testing.T) {
	if got := instancetype.Safe("x9.huge").MaxPods(instancetype.PodMode{}); got != 8 {
		t.Errorf("max-pods %d, want 8", got)
	}
}

func TestFreeVLAN(t *testing.T) {
	all := map[int]bool{}
	for id := 1; id <= maxVLANID; id++ {
		all[id] = true
	}
	for want, used := range map[int]map[int]bool{1: nil, 3: {1: true, 2: true, 4: true}, 0: all} {
		if got := freeVLAN(used); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}
