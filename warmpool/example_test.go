// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// node is an m5.large with 9 addresses on its primary ENI and 8 pods.
var node = warmpool.Snapshot{
	Now:    time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC),
	Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 9, MaxPods: 29},
	ENIs:   []warmpool.ENI{{ID: "eni-1", Primary: true, Slots: 9, Assigned: 8}},
	Demand: warmpool.Demand{Waiting: 3},
}

func ExamplePlan() {
	d := warmpool.Plan(warmpool.Band{Warmup: 8}, node)
	for _, a := range d.Actions {
		fmt.Println(a.Op, a.N)
	}
	fmt.Println(d.Explanation)
	// Output:
	// create 3
	// 1 free of 9 usable, band 1 to 9 in batches of 4: demand 11 = 8 assigned + 3 pending
}

// thrifty keeps one free address for each ENI, and releases nothing.
type thrifty struct{}

func (thrifty) Decide(s warmpool.Snapshot) warmpool.Decision {
	v := s.Supply()
	want := v.Assigned + s.Demand.Pending() + len(s.ENIs)
	d := warmpool.Decision{Explanation: warmpool.Because("one free address for each of %d ENIs", len(s.ENIs))}
	d.Short, _ = warmpool.Corridor{Min: want, Max: v.Usable()}.Slots(v)
	d.Actions = warmpool.Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	return d
}

// This policy combines a corridor with a placer.
func ExamplePolicy() {
	d := warmpool.Plan(thrifty{}, node)
	fmt.Println(d.Short, "short:", d.Explanation)
	// Output:
	// 3 short: one free address for each of 1 ENIs
}

// A Shadow reports the decision of another policy without carrying it out.
func ExampleShadow() {
	p := warmpool.Shadow{Policy: warmpool.AWS{WarmIPTarget: 1}, Other: warmpool.Band{}}
	d := warmpool.Plan(p, node)
	fmt.Println("policy:", len(d.Actions), "actions;", "other:", d.Other.Actions[0].Op, d.Other.Actions[0].N)
	fmt.Println("differs:", d.Differs())
	// Output:
	// policy: 0 actions; other: create 3
	// differs: true
}

// Wrappers can be combined. Here a Band gets headroom for rises of demand that it
// has measured, keeps few addresses while fewer than 64 are free in the subnet,
// and always has 14 to 24 addresses.
func ExampleBounds() {
	p := warmpool.Bounds{
		Policy: warmpool.Exhaustion{
			Policy: warmpool.Predictive{Policy: warmpool.Band{}, Latency: 20 * time.Second, Quantile: 0.95, Max: 16},
			Tight:  warmpool.Band{Low: 1, Batch: 1},
			Below:  64,
			For:    5 * time.Minute,
		},
		Floor:   14,
		Ceiling: 24,
	}
	s := node
	s.Subnet.Free = 50
	d := warmpool.Plan(p, s)
	fmt.Println(d.Actions[0].Op, d.Actions[0].N, "because", d.Actions[0].Explanation)
	// Output:
	// create 5 because floor of 14 addresses, 9 usable
}

// The original releases the last free prefix if WARM_PREFIX_TARGET is 0, and then
// requests it again.
func ExampleQuirks() {
	s := warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 16},
		ENIs:   []warmpool.ENI{{ID: "eni-1", Primary: true, Slots: 1}},
	}
	original := warmpool.AWS{Quirks: warmpool.Quirks{ZeroFlaps: true}}
	fmt.Println(warmpool.Plan(warmpool.AWS{}, s).Over, warmpool.Plan(original, s).Over)
	// Output:
	// 0 1
}

func ExamplePolicyByName() {
	p, err := warmpool.PolicyByName("aws", map[string]string{"WARM_IP_TARGET": "4", "with-hold-down": "5m"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(warmpool.Plan(p, node).Actions[0].N, "slots")
	_, err = warmpool.PolicyByName("aws", map[string]string{"WARM_IPS": "4"})
	fmt.Println(errors.Is(err, warmpool.ErrSetting))
	// Output:
	// 3 slots
	// true
}

func ExampleParsePolicy() {
	name, set, err := warmpool.ParsePolicy("aws:WARM_IP_TARGET=4,with-hold-down=5m")
	fmt.Println(name, set, err)
	// Output:
	// aws map[WARM_IP_TARGET:4 with-hold-down:5m] <nil>
}

func ExampleSchedule() {
	officeHours := warmpool.Schedule{
		Policy:   warmpool.Band{},
		Location: time.FixedZone("CET", 3600),
		Windows: []warmpool.Window{{
			From: 7 * time.Hour, To: 19 * time.Hour,
			Days:   []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday},
			Policy: warmpool.Band{Low: 4, High: 20},
		}},
	}
	d := warmpool.Plan(officeHours, node)
	fmt.Println(d.Short, "short, decide again in", d.Next)
	// Output:
	// 7 short, decide again in 6h0m0s
}

// AWS counts only pods that have an address, so it fetches two addresses for a
// burst of ten pods. With ServeWaiting one refill serves the whole burst.
func ExampleServeWaiting() {
	burst := node
	burst.Demand.Waiting = 10
	p := warmpool.AWS{WarmIPTarget: 2}
	for _, p := range []warmpool.Policy{p, warmpool.ServeWaiting{Policy: p}} {
		d := warmpool.Plan(p, burst)
		fmt.Println(d.Actions[0].Op, d.Actions[0].N, "because", d.Explanation)
	}
	// Output:
	// create 1 because WARM_IP_TARGET 2, MINIMUM_IP_TARGET 0: want 10, have 9 usable addresses, 8 assigned
	// create 9 because 10 pods wait, 1 addresses are free or on their way
}

// The policies of other CNIs, each with usual settings, decide differently for the same node.
func Example_otherCNIs() {
	cooling := node
	cooling.ENIs = []warmpool.ENI{{ID: "eni-1", Primary: true, Slots: 9, Assigned: 6, Cooling: 2}}
	for _, of := range []struct {
		cni    string
		policy warmpool.Policy
	}{
		{"amazon-vpc-cni-k8s", warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 2, MinAge: time.Minute, UnassignEvery: 30 * time.Second}},
		{"  with its defects", warmpool.AWS{WarmIPTarget: 5, Quirks: warmpool.Quirks{CoolingIsFree: true, CardUnits: true, ZeroFlaps: true}}},
		{"Cilium", warmpool.Cilium{PreAllocate: 8, MinAllocate: 10, MaxAllocate: 20, MaxAboveWatermark: 2, Release: true, ReleaseAfter: 3 * time.Minute}},
		{"Azure CNS, reactive", warmpool.AzureV1{Batch: 16, RequestPercent: 50, ReleasePercent: 150, Max: 250}},
		{"Azure CNS, proactive", warmpool.AzureV2{Batch: 16, RequestPercent: 50, Max: 250}},
		{"Terway", warmpool.Terway{MaxIdle: 5, SyncEvery: 2 * time.Minute, PerCall: 10, WarmUp: 10,
			ReclaimAfter: time.Hour, ReclaimEvery: 10 * time.Minute, ReclaimBatch: 5}},
		{"resource controller", warmpool.ResourceController{WarmIPTarget: 3, MinimumIPTarget: 3, WarmPrefixTarget: 1}},
		{"  on a node that drains", warmpool.ResourceController{Draining: true}},
	} {
		d := warmpool.Plan(of.policy, cooling)
		fmt.Printf("%-24s short %2d, over %d: %v\n", of.cni, d.Short, d.Over, steps(d.Actions))
	}
	// Output:
	// amazon-vpc-cni-k8s       short  4, over 0: [create 4]
	//   with its defects       short  2, over 0: [create 2]
	// Cilium                   short  7, over 0: [create 9]
	// Azure CNS, reactive      short  9, over 0: [create 9]
	// Azure CNS, proactive     short 25, over 0: [create 9 create 9]
	// Terway                   short  3, over 0: [create 3]
	// resource controller      short  2, over 0: [create 2]
	//   on a node that drains  short  0, over 1: [unassign 1]
}

// AWS gives an address back as soon as it is not needed. A HoldDown waits first.
func ExampleHoldDown() {
	aws := warmpool.AWS{WarmIPTarget: 2}
	idle := node
	idle.ENIs = []warmpool.ENI{{ID: "eni-1", Primary: true, Slots: 9, Assigned: 3}}
	fmt.Println(steps(warmpool.Plan(aws, idle).Actions))
	d := warmpool.Plan(warmpool.HoldDown{Policy: aws, For: 10 * time.Minute}, idle)
	fmt.Println(steps(d.Actions), "decide again in", d.Next)
	// Output:
	// [unassign 4]
	// [] decide again in 10m0s
}

// A Supply has the sums from which policies compute. Here a call is assigning two more
// addresses, and the last pod has just released one.
func ExampleSnapshot_Supply() {
	s := node
	s.ENIs = []warmpool.ENI{{ID: "eni-1", Primary: true, Slots: 7, PendingSlots: 2, Assigned: 5, Cooling: 1}}
	v := s.Supply()
	fmt.Printf("%d addresses, of these %d pending, %d assigned, %d cooling\n", v.Total, v.Pending, v.Assigned, v.Cooling)
	fmt.Printf("%d slots of %d address, of these %d without a pod, %d free\n", v.Slots, v.Unit, v.EmptySlots, v.FreeSlots)
	fmt.Printf("%d usable, %d free; room for %d slots and %d ENIs\n", v.Usable(), v.Free(), v.Room, v.NewENIs)
	// Output:
	// 9 addresses, of these 2 pending, 5 assigned, 1 cooling
	// 7 slots of 1 address, of these 2 without a pod, 1 free
	// 8 usable, 3 free; room for 0 slots and 2 ENIs
}

// A Placer can take one step a decision, and can leave ENIs attached.
func ExamplePlacer() {
	two := node
	two.ENIs = append(two.ENIs[:1:1], warmpool.ENI{ID: "eni-2", Slots: 4})
	why := warmpool.Because("%d addresses by hand", 8)
	for _, p := range []warmpool.Placer{{}, {OneStep: true, KeepENIs: true}} {
		fmt.Println("grow:  ", steps(p.Grow(nil, &two, 8, why)))
		fmt.Println("shrink:", steps(p.Shrink(nil, &two, 4, why)))
	}
	// Output:
	// grow:   [assign 5 create 3]
	// shrink: [delete 4]
	// grow:   [assign 5]
	// shrink: [unassign 4]
}

// steps returns the actions in short.
func steps(actions []warmpool.Action) (out []string) {
	for _, a := range actions {
		out = append(out, fmt.Sprintf("%s %d", a.Op, a.N))
	}
	return out
}
