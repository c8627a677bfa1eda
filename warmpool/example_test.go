// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
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
	fmt.Println(d.Reason)
	// Output:
	// create 3
	// 1 free of 9 usable, band 1 to 9 in batches of 4: demand 11 = 8 assigned + 3 pending
}

// thrifty keeps one free address an ENI, and never gives anything back.
type thrifty struct{}

func (thrifty) Decide(s warmpool.Snapshot) warmpool.Decision {
	v := s.Supply()
	want := v.Assigned + s.Demand.Pending() + len(s.ENIs)
	d := warmpool.Decision{Reason: warmpool.Because("one free address for each of %d ENIs", len(s.ENIs))}
	d.Short, _ = warmpool.Corridor{Min: want, Max: v.Usable()}.Slots(v)
	d.Actions = warmpool.Placement{}.Grow(nil, &s, d.Short, d.Reason)
	return d
}

// A policy of one's own is a corridor and a placement.
func ExamplePolicy() {
	d := warmpool.Plan(thrifty{}, node)
	fmt.Println(d.Short, "short:", d.Reason)
	// Output:
	// 3 short: one free address for each of 1 ENIs
}

// Shadow tells what another policy would do, without doing it.
func ExampleShadow() {
	p := warmpool.Shadow{Policy: warmpool.AWS{WarmIPTarget: 1}, Other: warmpool.Band{}}
	d := warmpool.Plan(p, node)
	fmt.Println("did:", len(d.Actions), "actions;", "other:", d.Beside.Actions[0].Op, d.Beside.Actions[0].N)
	// Output:
	// did: 0 actions; other: create 3
}

func ExampleNamed() {
	p, err := warmpool.Named("aws", map[string]string{"WARM_IP_TARGET": "4", "with-hold-down": "5m"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(warmpool.Plan(p, node).Actions[0].N, "slots")
	_, err = warmpool.Named("aws", map[string]string{"WARM_IPS": "4"})
	fmt.Println(err != nil)
	// Output:
	// 3 slots
	// true
}

func ExampleParse() {
	name, set, err := warmpool.Parse("aws:WARM_IP_TARGET=4,with-hold-down=5m")
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
	fmt.Println(d.Short, "short, look again in", d.Next)
	// Output:
	// 7 short, look again in 7h0m0s
}

// A policy that counts pods only once they have an address fetches a few for a
// burst. In the agent the burst gets what it needs by one refill.
func ExampleServeWaiting() {
	burst := node
	burst.Demand.Waiting = 10
	p := warmpool.AWS{WarmIPTarget: 2}
	for _, p := range []warmpool.Policy{p, warmpool.ServeWaiting{Policy: p}} {
		d := warmpool.Plan(p, burst)
		fmt.Println(d.Actions[0].Op, d.Actions[0].N, "because", d.Reason)
	}
	// Output:
	// create 1 because WARM_IP_TARGET 2, MINIMUM_IP_TARGET 0: want 10, have 9 usable addresses, 8 assigned
	// create 9 because 10 pods wait, 1 addresses are free or on their way
}
