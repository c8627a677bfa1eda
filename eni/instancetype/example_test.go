// SPDX-License-Identifier: Apache-2.0

package instancetype_test

import (
	"fmt"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// A type that the table lacks gets the safe limits.
func ExampleLookup() {
	for _, name := range []string{"m5.large", "p4d.24xlarge", "zz1.large"} {
		l, ok := instancetype.Lookup(name)
		if !ok {
			l = instancetype.Safe(name)
		}
		fmt.Printf("%s (%s): ENIs by card %v, %d slots an ENI, %d branch ENIs\n", l.Type, l.Source, l.Cards, l.SlotsPerENI(), l.Branches)
	}
	// Output:
	// m5.large (table): ENIs by card [3], 9 slots an ENI, 9 branch ENIs
	// p4d.24xlarge (table): ENIs by card [15 15 15 15], 49 slots an ENI, 62 branch ENIs
	// zz1.large (default): ENIs by card [2], 3 slots an ENI, 0 branch ENIs
}

// The table has the size of a type, its EFAs, and the ENIs that it allows in addition if the
// ENA queues are assigned flexibly.
func ExampleLookup_attributes() {
	l, _ := instancetype.Lookup("c6in.32xlarge")
	fmt.Printf("%d vCPUs, %d MiB, %d EFAs, ENIs by card %v and %v more\n", l.VCPUs, l.MemoryMiB, l.EFAs, l.Cards, l.Flexible)
	// Output: 128 vCPUs, 262144 MiB, 2 EFAs, ENIs by card [8 8] and [4 4] more
}

// The types of a family that support prefix delegation but no trunk ENI.
func ExampleAll() {
	for l := range instancetype.All() {
		if len(l.Type) > 3 && l.Type[:3] == "t3." && l.Nitro && l.TrunkKnown && !l.Trunk {
			fmt.Println(l.Type)
		}
	}
	// Output:
	// t3.2xlarge
	// t3.large
	// t3.medium
	// t3.micro
	// t3.nano
	// t3.small
	// t3.xlarge
}

func ExampleSafe() {
	l := instancetype.Safe("zz1.large")
	fmt.Println(l.MaxENIs(0), l.SlotsPerENI(), l.MaxPods(instancetype.PodMode{}))
	// Output: 2 3 8
}

func ExampleLimits_MaxPods() {
	l, _ := instancetype.Lookup("m5.large")
	fmt.Println(l.MaxPods(instancetype.PodMode{}))
	fmt.Println(l.MaxPods(instancetype.PodMode{CustomNetworking: true}))
	fmt.Println(l.MaxPods(instancetype.PodMode{Prefixes: true}))
	// Output:
	// 29
	// 20
	// 434
}

// EKS gives a managed node of 2 vCPUs at most 110 pods.
func ExampleEKSCap() {
	l, _ := instancetype.Lookup("m5.large")
	fmt.Println(l.MaxPods(instancetype.PodMode{Prefixes: true, Cap: instancetype.EKSCap(l.VCPUs)}))
	// Output: 110
}
