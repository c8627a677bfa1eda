// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

// jobs yields the pods of a batch job: every ten minutes twelve pods start on the node, one
// a second, and each ends after two minutes.
func jobs() iter.Seq[sim.Event] {
	return func(yield func(sim.Event) bool) {
		for round := range 12 {
			start := time.Duration(round) * 10 * time.Minute
			for _, ends := range []bool{false, true} {
				for pod := range 12 {
					e := sim.Event{At: start + time.Duration(pod)*time.Second, Node: 0, Pod: pod, Delete: ends}
					if ends {
						e.At += 2 * time.Minute
					}
					if !yield(e) {
						return
					}
				}
			}
		}
	}
}

// A trace can be any sequence of events. The first round of the job fills the node and is
// not measured.
func ExampleTrace() {
	trace := sim.Trace{Name: "jobs", Nodes: 1, From: 10 * time.Minute, Horizon: 2 * time.Hour, Events: jobs()}
	for _, p := range []warmpool.Policy{warmpool.AWS{WarmIPTarget: 2}, warmpool.Band{}} {
		r, err := sim.Run(context.Background(), sim.Config{
			Policy: p,
			// A region with a slow EC2, whose times do not vary.
			EC2:    sim.EC2{Call: time.Second, Visible: 2 * time.Second, Attach: 8 * time.Second, Detach: 5 * time.Second, Sigma: -1},
			Subnet: sim.Subnet{Addresses: 256, Backoff: time.Minute},
			Sample: time.Hour,
		}, trace)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %d of %d pods waited, at most %.1f s; %d calls\n", r.Policy, r.PodsThatWaited, r.Pods, r.WaitMaxSeconds, r.EC2CallsTotal)
		for _, p := range r.Series {
			fmt.Printf("  until %4.0f s: %d calls\n", p.Seconds, p.Calls)
		}
	}
	// Output:
	// warmpool.AWS: 110 of 132 pods waited, at most 5.0 s; 88 calls
	//   until 3600 s: 48 calls
	//   until 7200 s: 48 calls
	// warmpool.Band: 22 of 132 pods waited, at most 2.0 s; 55 calls
	//   until 3600 s: 34 calls
	//   until 7200 s: 30 calls
}
