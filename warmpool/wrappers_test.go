// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

var monday = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

// at returns the snapshot at the time t, with the memory of the last decision.
func at(s warmpool.Snapshot, t time.Time, last warmpool.Decision) warmpool.Snapshot {
	s.Now, s.Memory = t, last.Memory
	return s
}

func TestBand(t *testing.T) {
	for _, r := range []struct{ total, assigned, waiting, slots int }{
		{0, 0, 0, 4}, {4, 3, 0, 0}, {4, 4, 0, 4}, {8, 0, 0, 0}, {16, 6, 0, 0}, {8, 8, 10, 12},
	} {
		s := big(r.total, r.assigned)
		s.Demand.Waiting = r.waiting
		if d := warmpool.Plan(warmpool.Band{}, s); slotsOf(d) != r.slots {
			t.Errorf("%+v: %d slots added; want %d (%s)", r, slotsOf(d), r.slots, d.Explanation)
		}
	}
}

func TestBandHoldDown(t *testing.T) {
	p := warmpool.Band{}
	d := warmpool.Plan(p, at(big(16, 2), monday, warmpool.Decision{}))
	if len(d.Actions) > 0 || d.Next != 5*time.Minute || d.Over != 12 {
		t.Fatalf("new surplus: over %d, actions %v, next %v; want 12, none, 5m", d.Over, d.Actions, d.Next)
	}
	// Demand rises for a moment, so the least surplus of the hold-down is smaller.
	d = warmpool.Plan(p, at(big(16, 6), monday.Add(2*time.Minute), d))
	if d.Over != 8 {
		t.Fatalf("over %d; want 8", d.Over)
	}
	d = warmpool.Plan(p, at(big(16, 2), monday.Add(5*time.Minute), d))
	if slotsOf(d) != -8 {
		t.Errorf("%d slots after the hold-down; want -8, the least surplus during it", slotsOf(d))
	}
	s := at(big(16, 2), monday, warmpool.Decision{})
	s.Subnet.Exhausted = true
	d = warmpool.Plan(p, s)
	if d.Over != 13 || d.Next != 50*time.Second {
		t.Errorf("exhausted subnet: over %d, next %v; want 13 of 14 free addresses, 50s", d.Over, d.Next)
	}
}

func TestBandKeepsEmptyENI(t *testing.T) {
	s := big(8, 4)
	s.Limits.MaxENIs = 2
	s.ENIs = append(s.ENIs, warmpool.ENI{ID: "eni-1"})
	d := warmpool.Plan(warmpool.Band{}, at(s, monday, warmpool.Decision{}))
	if len(d.Actions) > 0 || d.Next != 30*time.Minute {
		t.Fatalf("actions %v, next %v; want none, 30m", d.Actions, d.Next)
	}
	d = warmpool.Plan(warmpool.Band{}, at(s, monday.Add(30*time.Minute), d))
	if len(d.Actions) != 1 || d.Actions[0].Op != warmpool.OpDelete || d.Actions[0].ENI != "eni-1" {
		t.Errorf("after 30 minutes: %v; want eni-1 deleted", d.Actions)
	}
}

func TestHoldDown(t *testing.T) {
	p := warmpool.HoldDown{Policy: warmpool.AWS{WarmIPTarget: 2}, For: time.Minute}
	d := warmpool.Plan(p, at(big(8, 2), monday, warmpool.Decision{}))
	if len(d.Actions) > 0 || d.Next != time.Minute || d.Capped.IsZero() {
		t.Fatalf("actions %v, next %v, capped %q; want none, 1m, a reason", d.Actions, d.Next, d.Capped)
	}
	low := warmpool.Plan(p, at(big(8, 8), monday.Add(30*time.Second), d))
	if slotsOf(low) != 2 {
		t.Errorf("growth during the hold-down: %v; want 2 slots", low.Actions)
	}
	again := warmpool.Plan(p, at(big(8, 2), monday.Add(time.Minute), low))
	if len(again.Actions) > 0 {
		t.Errorf("actions %v; want none, because the growth restarts the hold-down", again.Actions)
	}
	d = warmpool.Plan(p, at(big(8, 2), monday.Add(2*time.Minute), d))
	if slotsOf(d) != -4 {
		t.Errorf("after the hold-down: %v; want 4 slots unassigned", d.Actions)
	}
}

func TestBounds(t *testing.T) {
	for _, tc := range []struct {
		name            string
		total, assigned int
		bounds          warmpool.Bounds
		want            int
	}{
		{"floor adds", 4, 2, warmpool.Bounds{Floor: 10}, 6},
		{"floor cuts a release", 20, 2, warmpool.Bounds{Floor: 10}, -10},
		{"ceiling cuts growth", 8, 8, warmpool.Bounds{Ceiling: 9}, 1},
		{"ceiling releases", 20, 18, warmpool.Bounds{Ceiling: 19}, -1},
		{"floor above ceiling", 0, 0, warmpool.Bounds{Floor: 20, Ceiling: 5}, 5},
		{"between floor and ceiling", 10, 8, warmpool.Bounds{Floor: 5, Ceiling: 15}, 0},
	} {
		tc.bounds.Policy = warmpool.AWS{WarmIPTarget: 2}
		if d := warmpool.Plan(tc.bounds, big(tc.total, tc.assigned)); slotsOf(d) != tc.want {
			t.Errorf("%s: %d slots; want %d (%v)", tc.name, slotsOf(d), tc.want, d.Actions)
		}
	}
}

func TestPredictive(t *testing.T) {
	p := warmpool.Predictive{Policy: warmpool.AWS{WarmIPTarget: 1}, Latency: 10 * time.Second, Quantile: 0.95}
	var d warmpool.Decision
	now := monday
	// In every tenth window five pods start at once and stop again.
	for i := range 400 {
		pods := 10
		if i%10 == 0 {
			d = warmpool.Plan(p, at(big(40, 15), now.Add(5*time.Second), d))
		}
		now = now.Add(10 * time.Second)
		d = warmpool.Plan(p, at(big(40, pods), now, d))
	}
	d = warmpool.Plan(p, at(big(10, 10), now, d))
	if got := slotsOf(d); got != 8 {
		t.Errorf("headroom %d; want 8, the end of the class of rises by 5 (%s)", got, d.Capped)
	}
	p.Max = 3
	if got := slotsOf(warmpool.Plan(p, at(big(10, 10), now, d))); got != 3 {
		t.Errorf("headroom %d; want 3, which is Max", got)
	}
	if got := slotsOf(warmpool.Plan(p, at(big(10, 10), now, warmpool.Decision{}))); got != 1 {
		t.Errorf("%d slots without memory; want 1, as by the wrapped policy", got)
	}
}

func TestExhaustion(t *testing.T) {
	p := warmpool.Exhaustion{Policy: warmpool.AzureV2{}, Below: 100}
	s := big(0, 0)
	s.Subnet.Free = 500
	if got := slotsOf(warmpool.Plan(p, at(s, monday, warmpool.Decision{}))); got != 16 {
		t.Errorf("500 free addresses: %d slots; want 16", got)
	}
	s.Subnet.Free = 99
	d := warmpool.Plan(p, at(s, monday, warmpool.Decision{}))
	if slotsOf(d) != 1 || d.Next != 2*time.Minute {
		t.Errorf("99 free addresses: %d slots, next %v; want 1, 2m", slotsOf(d), d.Next)
	}
	s.Subnet.Free = 500
	if d = warmpool.Plan(p, at(s, monday.Add(time.Minute), d)); slotsOf(d) != 1 {
		t.Errorf("%d slots after 1 minute; want 1, because the tight policy runs for 2 minutes", slotsOf(d))
	}
	if d = warmpool.Plan(p, at(s, monday.Add(2*time.Minute), d)); slotsOf(d) != 16 {
		t.Errorf("after 2 minutes %d slots; want 16", slotsOf(d))
	}
}

func TestSchedule(t *testing.T) {
	p := warmpool.Schedule{
		Policy: warmpool.AWS{WarmIPTarget: 1},
		Windows: []warmpool.Window{
			{From: 22 * time.Hour, To: 2 * time.Hour, Days: []time.Weekday{time.Friday}, Policy: warmpool.AWS{WarmIPTarget: 9}},
			{From: 8 * time.Hour, To: 12 * time.Hour, Policy: warmpool.AWS{WarmIPTarget: 5}},
		},
	}
	friday := time.Date(2026, 1, 9, 0, 0, 0, 0, time.UTC)
	for _, r := range []struct {
		at   time.Duration
		want int
		next time.Duration
	}{
		{7 * time.Hour, 1, time.Hour}, {8 * time.Hour, 5, 4 * time.Hour}, {12 * time.Hour, 1, 10 * time.Hour},
		{22 * time.Hour, 9, 4 * time.Hour}, {25 * time.Hour, 9, time.Hour}, {26 * time.Hour, 1, 6 * time.Hour},
		{46 * time.Hour, 1, 4 * time.Hour}, // Saturday night
	} {
		d := warmpool.Plan(p, at(big(0, 0), friday.Add(r.at), warmpool.Decision{}))
		if slotsOf(d) != r.want || d.Next != r.next {
			t.Errorf("Friday + %v: %d slots, next %v; want %d, %v", r.at, slotsOf(d), d.Next, r.want, r.next)
		}
	}
}

func TestShadow(t *testing.T) {
	p := warmpool.Shadow{Policy: warmpool.AWS{WarmIPTarget: 1}, Other: warmpool.Band{}}
	d := warmpool.Plan(p, big(0, 0))
	if slotsOf(d) != 1 || d.Other == nil || slotsOf(*d.Other) != 4 || !d.Differs() {
		t.Errorf("actions %v, other decision %+v; want 1 slot and 4 slots", d.Actions, d.Other)
	}
	p.Other = p.Policy
	if d = warmpool.Plan(p, big(0, 0)); d.Differs() {
		t.Errorf("a policy differs from itself")
	}
}

// fixed is a policy that always decides on the same actions.
type fixed []warmpool.Action

func (f fixed) Decide(warmpool.Snapshot) warmpool.Decision { return warmpool.Decision{Actions: f} }

// TestPlan checks that each rule of Plan cuts the actions of a policy.
func TestPlan(t *testing.T) {
	const (
		assign, create    = warmpool.OpAssign, warmpool.OpCreate
		unassign, deleted = warmpool.OpUnassign, warmpool.OpDelete
	)
	s := warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 5, SlotsPerENI: 10, MaxPods: 40},
		ENIs: []warmpool.ENI{
			{ID: "primary", Primary: true, Slots: 8, PendingSlots: 1, Assigned: 4, Cooling: 2},
			{ID: "idle", Slots: 10},
			{ID: "cooling", Slots: 3, Cooling: 1},
			{ID: "trunk", NoPods: true},
		},
	}
	for _, tc := range []struct {
		name    string
		change  func(*warmpool.Snapshot)
		actions fixed
		want    []string
		capped  string
	}{
		{"allowed actions", nil, fixed{{Op: assign, ENI: "primary", N: 1}, {Op: create, N: 5}, {Op: deleted, ENI: "idle"}}, []string{"assign primary 1", "create  5", "delete idle 10"}, ""},
		{"pending slots take room", nil, fixed{{Op: assign, ENI: "primary", N: 9}}, []string{"assign primary 1"}, "room of 1"},
		{"room is used once", nil, fixed{{Op: assign, ENI: "cooling", N: 6}, {Op: assign, ENI: "cooling", N: 6}}, []string{"assign cooling 6", "assign cooling 1"}, "room of 1"},
		{"number of ENIs", nil, fixed{{Op: create, N: 1}, {Op: create, N: 1}}, []string{"create  1"}, "has 5 ENIs, its limit"},
		{"slots of a new ENI", nil, fixed{{Op: create, N: 99}}, []string{"create  10"}, "room of 10"},
		{"max-pods, cooling not counted", func(s *warmpool.Snapshot) { s.Limits.MaxPods = 22 }, fixed{{Op: create, N: 9}}, []string{"create  3"}, "max-pods 22"},
		{"subnet", func(s *warmpool.Snapshot) { s.Subnet.Free = 2 }, fixed{{Op: create, N: 9}}, []string{"create  2"}, "2 left in the subnet"},
		{"assigned and cooling addresses stay", nil, fixed{{Op: unassign, ENI: "primary", N: 5}}, []string{"unassign primary 2"}, "the 2 that are free"},
		{"one slot more than free", nil, fixed{{Op: unassign, ENI: "primary", N: 3}}, []string{"unassign primary 2"}, "the 2 that are free"},
		{"free slots are released once", nil, fixed{{Op: unassign, ENI: "cooling", N: 2}, {Op: unassign, ENI: "cooling", N: 1}}, []string{"unassign cooling 2"}, "0 free"},
		{"the primary ENI stays", nil, fixed{{Op: deleted, ENI: "primary"}}, nil, "is the primary"},
		{"ENIs with cooling addresses stay", nil, fixed{{Op: deleted, ENI: "cooling"}}, nil, "1 cooling"},
		{"ENIs not for pods stay", nil, fixed{{Op: deleted, ENI: "trunk"}, {Op: assign, ENI: "trunk", N: 1}}, nil, "no ENI for pods has this ID"},
		{"unknown ENIs", nil, fixed{{Op: assign, ENI: "other", N: 1}}, nil, "no ENI has this ID"},
		{"no action on a deleted ENI", nil, fixed{{Op: deleted, ENI: "idle"}, {Op: unassign, ENI: "idle", N: 1}}, []string{"delete idle 10"}, "0 free"},
		{"numbers below one", nil, fixed{{Op: assign, ENI: "primary", N: 0}, {Op: create, N: -1}, {Op: unassign, ENI: "idle", N: 0}}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := s
			if tc.change != nil {
				tc.change(&s)
			}
			before := slices.Clone(tc.actions)
			d := warmpool.Plan(tc.actions, s)
			var got []string
			for _, a := range d.Actions {
				got = append(got, strings.Join([]string{a.Op.String(), a.ENI, warmpool.Because("%d", a.N).String()}, " "))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			if tc.capped != "" && !strings.Contains(d.Capped.String(), tc.capped) {
				t.Errorf("capped %q; want %q", d.Capped, tc.capped)
			}
			if !slices.Equal(before, tc.actions) {
				t.Error("Plan has changed the slice of the policy")
			}
		})
	}
}

// TestPendingENI checks that an ENI that is being created counts as supply and
// towards the limit, and that slots that fit on it wait until it exists.
func TestPendingENI(t *testing.T) {
	s := warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 6},
		ENIs:   []warmpool.ENI{{ID: "eni-0", Primary: true, Slots: 6, Assigned: 6}, {PendingSlots: 4}},
	}
	for waiting, want := range map[int]int{3: 0, 5: 0, 6: 4, 10: 6} {
		s.Demand.Waiting = waiting
		d := warmpool.Plan(warmpool.Band{}, s)
		for _, a := range d.Actions {
			if a.Op != warmpool.OpCreate {
				t.Errorf("%d pods wait: actions %v; want only creations", waiting, d.Actions)
			}
		}
		if slotsOf(d) != want {
			t.Errorf("%d pods wait: %d slots; want %d (%s)", waiting, slotsOf(d), want, d.Explanation)
		}
	}
	d := warmpool.Plan(fixed{{Op: warmpool.OpAssign, N: 1}, {Op: warmpool.OpDelete}}, s)
	if len(d.Actions) > 0 {
		t.Errorf("actions on an ENI without an ID: %v; want none", d.Actions)
	}
}

// TestEachSettingHasEffect checks that no setting is accepted and ignored.
func TestEachSettingHasEffect(t *testing.T) {
	for name := range warmpool.PolicyNames() {
		plain, err := warmpool.PolicyByName(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		settings := warmpool.PolicySettings(name)
		wrappers := len(slices.DeleteFunc(slices.Clone(settings), func(s string) bool { return !strings.HasPrefix(s, "with-") }))
		if own := len(settings) - wrappers; own != fields(reflect.TypeOf(plain)) {
			t.Errorf("policy %s has %d settings for %d fields", name, own, fields(reflect.TypeOf(plain)))
		}
		for _, key := range settings {
			effect := false
			for _, value := range []string{"7", "7m", "true"} {
				p, err := warmpool.PolicyByName(name, map[string]string{key: value})
				if err != nil {
					continue // the setting has another type
				}
				text := fmt.Sprintf("%T %+v", p, p)
				effect = effect || text != fmt.Sprintf("%T %+v", plain, plain)
				if other, twice := seen[text]; twice {
					t.Errorf("policy %s: %s has the same effect as %s", name, key, other)
				}
				seen[text] = key
			}
			if !effect {
				t.Errorf("policy %s: setting %s has no effect", name, key)
			}
		}
	}
}

// fields counts the fields of a structure, and those of nested structures instead
// of the structures.
func fields(s reflect.Type) int {
	n := 0
	for f := range s.Fields() {
		if f.Type.Kind() == reflect.Struct {
			n += fields(f.Type)
		} else {
			n++
		}
	}
	return n
}

func TestPolicyByName(t *testing.T) {
	p, err := warmpool.PolicyByName("aws", map[string]string{"WARM_IP_TARGET": "2", "MINIMUM_IP_TARGET": "5", "with-hold-down": "1m"})
	want := warmpool.HoldDown{Policy: warmpool.AWS{WarmENITarget: 1, WarmIPTarget: 2, MinimumIPTarget: 5}, For: time.Minute}
	if diff := cmp.Diff(warmpool.Policy(want), p); diff != "" || err != nil {
		t.Errorf("error %v, policy (-want +got):\n%s", err, diff)
	}
	for name, doc := range warmpool.PolicyNames() {
		if doc == "" || len(warmpool.PolicySettings(name)) == 0 {
			t.Errorf("%s: doc %q, settings %v; want both", name, doc, warmpool.PolicySettings(name))
		}
		p, err := warmpool.PolicyByName(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { warmpooltest.Run(t, p) })
	}
	for _, tc := range []struct {
		name, key, value, want string
	}{
		{"bend", "", "", "want one of band"},
		{"band", "lo", "1", "want one of low, high"},
		{"band", "low", "many", "a number of at least -1"},
		{"band", "high", "-1", "a number of at least 0"},
		{"band", "hold-down", "5", "a duration such as 90s"},
		{"cilium", "release", "maybe", "true or false"},
	} {
		set := map[string]string{}
		if tc.key != "" {
			set[tc.key] = tc.value
		}
		_, err := warmpool.PolicyByName(tc.name, set)
		if !errors.Is(err, warmpool.ErrSetting) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s=%s: error %v; want %q", tc.name, tc.key, tc.value, err, tc.want)
		}
	}
}
