// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

// actionsOf returns the actions of a decision in the form "op eni n".
func actionsOf(d warmpool.Decision) []string {
	var out []string
	for _, a := range d.Actions {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s", a.Op, a.ENI))+fmt.Sprintf(" %d", a.N))
	}
	return out
}

func TestServeWaiting(t *testing.T) {
	const (
		assign, create    = warmpool.OpAssign, warmpool.OpCreate
		unassign, deleted = warmpool.OpUnassign, warmpool.OpDelete
	)
	type snapshot = *warmpool.Snapshot
	for _, tc := range []struct {
		name    string
		change  func(s snapshot)
		actions fixed
		want    []string
	}{
		{"no pod waits", func(s snapshot) { s.Demand.Waiting = 0 }, fixed{{Op: unassign, ENI: "eni-1", N: 1}}, []string{"unassign eni-1 1"}},
		{"pods are bound", func(s snapshot) { s.Demand = warmpool.Demand{Bound: 9, Waiting: 3} }, nil, []string{"assign eni-1 4", "create 4"}},
		{"free addresses are enough for the bound pods", func(s snapshot) { s.Demand = warmpool.Demand{Bound: 1} }, nil, nil},
		{"free addresses are enough", func(s snapshot) { s.Demand.Waiting = 1 }, nil, nil},
		{"the policy does nothing", nil, nil, []string{"assign eni-1 4"}},
		{"the policy adds enough", nil, fixed{{Op: create, N: 6}}, []string{"create 6"}},
		{"the policy adds too little", func(s snapshot) { s.Demand.Waiting = 9 }, fixed{{Op: assign, ENI: "eni-1", N: 2}}, []string{"assign eni-1 4", "create 4"}},
		{"more than the card has room for", func(s snapshot) { s.Demand.Waiting = 99 }, nil, []string{"assign eni-1 4", "create 6"}},
		{"EC2 takes no more on an ENI", func(s snapshot) { s.ENIs[1].Full = true }, nil, []string{"create 4"}},
		{"an ENI is not for pods", func(s snapshot) { s.ENIs[1].NoPods = true }, nil, []string{"create 5"}},
		{"pending slots count", func(s snapshot) { s.ENIs[1].PendingSlots = 3 }, nil, []string{"assign eni-1 1"}},
		{"a pending ENI gets slots only once it exists", func(s snapshot) {
			s.ENIs = append(s.ENIs, warmpool.ENI{PendingSlots: 1})
			s.Demand.Waiting = 9
		}, nil, []string{"assign eni-1 4"}},
		{"cooling addresses do not count", func(s snapshot) { s.ENIs[1].Cooling = 1 }, nil, []string{"assign eni-1 4", "create 1"}},
		{"prefixes", func(s snapshot) {
			s.Limits.AddressesPerSlot, s.Demand.Waiting = 16, 16*6+15+17
			s.ENIs[0].Assigned = 0
		}, nil, []string{"assign eni-1 1"}},
		{"addresses for waiting pods are not released", func(s snapshot) { s.ENIs[1].Slots, s.Demand.Waiting = 6, 3 },
			fixed{{Op: unassign, ENI: "eni-1", N: 5}}, []string{"unassign eni-1 2"}},
		{"releases are dropped before growth is added", func(s snapshot) { s.Demand.Waiting = 2 }, fixed{{Op: unassign, ENI: "eni-1", N: 1}}, []string{"assign eni-1 1"}},
		{"an ENI that gets slots is not deleted", func(s snapshot) { s.ENIs[1] = warmpool.ENI{ID: "eni-1"} },
			fixed{{Op: deleted, ENI: "eni-1"}}, []string{"assign eni-1 5"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := warmpool.Snapshot{
				Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 6},
				ENIs:   []warmpool.ENI{{ID: "eni-0", Primary: true, Slots: 6, Assigned: 6}, {ID: "eni-1", Slots: 2, Assigned: 1}},
				Demand: warmpool.Demand{Waiting: 5},
			}
			if tc.change != nil {
				tc.change(&s)
			}
			d := warmpool.Plan(warmpool.ServeWaiting{Policy: tc.actions}, s)
			if diff := cmp.Diff(tc.want, actionsOf(d)); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			if changed := !cmp.Equal(tc.want, actionsOf(warmpool.Decision{Actions: tc.actions})); changed == d.Explanation.IsZero() {
				t.Errorf("explanation %q; want one only if the wrapper changed the policy's decision", d.Explanation)
			}
			if !d.Capped.IsZero() {
				t.Errorf("Plan cuts the wrapper's actions: %s", d.Capped)
			}
		})
	}
}

// TestServeWaitingExplains checks the explanation of a decision that the wrapper
// has changed.
func TestServeWaitingExplains(t *testing.T) {
	s := big(8, 6)
	s.Demand.Waiting = 5
	d := warmpool.Plan(warmpool.ServeWaiting{Policy: warmpool.AWS{MinimumIPTarget: 4}}, s)
	if d.Short != 3 || d.Over != 0 || d.Explanation.String() != "5 pods wait, 2 addresses are free or on their way" {
		t.Errorf("short %d, over %d: %s; want 3, 0 and the number of waiting pods", d.Short, d.Over, d.Explanation)
	}
}

// TestOneRefill checks that one decision serves a burst of pods under every policy,
// including those that grow by one ENI at a time and those that ignore demand.
func TestOneRefill(t *testing.T) {
	for name, p := range conforming {
		for _, unit := range []int{1, 16} {
			pool := warmpooltest.NewPool(warmpool.Limits{MaxENIs: 4, SlotsPerENI: 6, AddressesPerSlot: unit})
			pool.AddENI(2)
			for range 20 * unit {
				pool.AddPod()
			}
			if err := pool.Apply(warmpool.Plan(warmpool.AgentPolicy(p), pool.Snapshot())); err != nil || pool.Waiting > 0 {
				t.Errorf("%s, %d addresses a slot: %d pods still wait, error %v", name, unit, pool.Waiting, err)
			}
		}
	}
}

// TestAgentPolicyShadow checks that AgentPolicy wraps both policies of a Shadow.
func TestAgentPolicyShadow(t *testing.T) {
	s := big(4, 4)
	s.Demand.Waiting = 6
	onDemand := warmpool.AWS{MinimumIPTarget: 1}
	d := warmpool.Plan(warmpool.AgentPolicy(warmpool.Shadow{Policy: onDemand, Other: onDemand}), s)
	if d.Differs() || slotsOf(d) != 6 || slotsOf(*d.Other) != 6 {
		t.Errorf("actions %v, of the other policy %v; want 6 slots each", actionsOf(d), actionsOf(*d.Other))
	}
}
