// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/agent/agenttest"
	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

// TestPlansAsTheSimulator passes each snapshot of simulated bursts to an agent
// with the same policy, which must decide as the simulator did.
func TestPlansAsTheSimulator(t *testing.T) {
	trace, err := sim.Workload{Shape: "cron", Nodes: 2, Horizon: 3 * time.Hour}.Trace()
	if err != nil {
		t.Fatal(err)
	}
	all := policies(t)
	all["shadow"] = warmpool.Shadow{Policy: warmpool.Band{Low: -1}, Other: warmpool.AWS{WarmIPTarget: 1}}
	changed := 0
	for name, policy := range all {
		for _, unit := range []int{1, 16} {
			t.Run(fmt.Sprintf("%s, %d addresses a slot", name, unit), func(t *testing.T) {
				limits := warmpool.Limits{MaxENIs: 4, SlotsPerENI: 14, AddressesPerSlot: unit, MaxPods: 58}
				changed += comparePlans(t, sim.Config{Policy: policy, Limits: limits, Subnet: sim.Subnet{Addresses: 128 * unit}}, trace)
			})
		}
	}
	if changed < 100 {
		t.Errorf("%d decisions were changed because pods wait, want at least 100", changed)
	}
}

// comparePlans reports the first snapshot of a simulation in which the agent
// decides differently. It returns the number of decisions, made while pods wait,
// that differ from those of the policy alone.
func comparePlans(t *testing.T, c sim.Config, trace sim.Trace) (changed int) {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: &agenttest.Node{}, Links: &agenttest.Node{}, Policy: c.Policy, Limits: []warmpool.Limits{c.Limits},
	})
	if err != nil {
		t.Fatal(err)
	}
	decisions := 0
	c.Decided = func(node int, s warmpool.Snapshot, simulated warmpool.Decision) {
		decisions++
		if planned := a.Plan(s); !reflect.DeepEqual(planned, simulated) && !t.Failed() {
			t.Errorf("node %d, %d pods wait:\nthe agent     %+v\nthe simulator %+v", node, s.Demand.Waiting, planned, simulated)
		}
		if s.Demand.Waiting > 0 && !reflect.DeepEqual(simulated, warmpool.Plan(c.Policy, s)) {
			changed++
		}
	}
	if _, err := sim.Run(t.Context(), c, trace); err != nil {
		t.Fatal(err)
	}
	if decisions < 100 {
		t.Errorf("%d decisions, want at least 100", decisions)
	}
	return changed
}
