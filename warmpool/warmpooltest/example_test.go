// SPDX-License-Identifier: Apache-2.0

package warmpooltest_test

import (
	"fmt"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

// A Pool shows what a policy does on a node, step by step, without a clock and without EC2.
func ExamplePool() {
	p := warmpooltest.NewPool(warmpool.Limits{MaxENIs: 3, SlotsPerENI: 9})
	start := p.Now
	for range 5 {
		p.AddPod()
	}
	policy := warmpool.AgentPolicy(warmpool.AWS{WarmIPTarget: 1})
	settled, err := p.Settle(policy, 20)
	fmt.Println("settled:", settled, err, "after", p.Now.Sub(start))
	fmt.Println("waiting:", p.Waiting, "usable:", usable(p), "calls:", p.Calls)

	// On the second network card the targets of AWS are 1, whatever is set, and a subnet
	// without free addresses prevents growth.
	p = warmpooltest.NewPool(warmpool.Limits{MaxENIs: 1})
	p.Card, p.Limits.SlotsPerENI = 1, 4
	p.Subnet.Exhausted = true
	settled, err = p.Settle(warmpool.AWS{WarmIPTarget: 8}, 20)
	fmt.Println("settled:", settled, err, "usable:", usable(p))
	// Output:
	// settled: true <nil> after 2s
	// waiting: 0 usable: 6 calls: map[assign:2]
	// settled: true <nil> usable: 0
}

func usable(p *warmpooltest.Pool) int {
	s := p.Snapshot()
	return s.Supply().Usable()
}
