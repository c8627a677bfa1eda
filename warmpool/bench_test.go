// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"fmt"
	"testing"

	"github.com/vpcnet/vpcnet/warmpool"
)

// crowded returns a card of 15 ENIs with 50 slots each and the given number of free
// addresses.
func crowded(unit, free int) warmpool.Snapshot {
	s := warmpool.Snapshot{Now: monday, Limits: warmpool.Limits{MaxENIs: 15, SlotsPerENI: 50, AddressesPerSlot: unit}}
	for i := range 15 {
		e := warmpool.ENI{ID: fmt.Sprintf("eni-%02d", i), Primary: i == 0, Slots: 50, Addresses: 50 * unit, Assigned: 50 * unit}
		e.AssignedPerSlot, e.CoolingPerSlot = make([]int, 50), make([]int, 50)
		for k := range 50 {
			e.AssignedPerSlot[k] = unit
		}
		if i == 14 {
			e.Assigned -= free
			for k, left := 49, free; left > 0; k-- {
				n := min(left, unit)
				e.AssignedPerSlot[k] -= n
				left -= n
			}
		}
		s.ENIs = append(s.ENIs, e)
	}
	return s
}

func BenchmarkDecide(b *testing.B) {
	for _, bm := range []struct {
		name   string
		policy warmpool.Policy
	}{
		{"Band", warmpool.Band{}},
		{"Band in the agent", warmpool.AgentPolicy(warmpool.Band{})},
		{"AWS", warmpool.AWS{WarmIPTarget: 5}},
		{"Cilium", warmpool.Cilium{PreAllocate: 5, Release: true}},
		{"AzureV1", warmpool.AzureV1{Max: 20000}},
		{"Terway", warmpool.Terway{MinIdle: 5, MaxIdle: 10}},
		{"ResourceController", warmpool.ResourceController{WarmIPTarget: 5}},
	} {
		for _, unit := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/unit=%d", bm.name, unit), func(b *testing.B) {
				s := crowded(unit, 5)
				if bm.name == "AzureV1" {
					s = crowded(unit, 12)
				}
				if d := warmpool.Plan(bm.policy, s); len(d.Actions) > 0 {
					b.Fatalf("actions %v; want none", d.Actions)
				}
				b.ReportAllocs()
				for b.Loop() {
					warmpool.Plan(bm.policy, s)
				}
			})
		}
	}
}

// TestDecideDoesNotAllocate checks that a decision without actions allocates
// nothing, because the agent decides each time a pod starts or stops.
func TestDecideDoesNotAllocate(t *testing.T) {
	for _, unit := range []int{1, 16} {
		s := crowded(unit, 5)
		for _, p := range []warmpool.Policy{warmpool.Band{}, warmpool.AWS{WarmIPTarget: 5}, warmpool.Terway{MinIdle: 5, MaxIdle: 10}} {
			agent := warmpool.AgentPolicy(p)
			if n := testing.AllocsPerRun(100, func() { p.Decide(s) }); n > 0 {
				t.Errorf("%T with %d addresses a slot: %v allocations, want 0", p, unit, n)
			}
			if n := testing.AllocsPerRun(100, func() { agent.Decide(s) }); n > 0 {
				t.Errorf("%T with %d addresses a slot, in the agent: %v allocations, want 0", p, unit, n)
			}
		}
	}
}
