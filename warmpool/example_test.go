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
	d := warmpool.Plan(warmpool.Band{}, node)
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
// and always has at least 14 addresses.
func ExampleBounds() {
	p := warmpool.Bounds{
		Policy: warmpool.Exhaustion{
			Policy: warmpool.Predictive{Policy: warmpool.Band{}, Quantile: 0.95, Max: 16},
			Below:  64,
		},
		Floor: 14,
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
		Policy: warmpool.Band{},
		Windows: []warmpool.Window{{
			From: 7 * time.Hour, To: 19 * time.Hour,
			Days:   []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday},
			Policy: warmpool.Band{Low: 4, High: 20},
		}},
	}
	d := warmpool.Plan(officeHours, node)
	fmt.Println(d.Short, "short, decide again in", d.Next)
	// Output:
	// 7 short, decide again in 7h0m0s
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
