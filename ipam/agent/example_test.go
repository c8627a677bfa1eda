// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/agent/agenttest"
	"github.com/vpcnet/vpcnet/warmpool"
)

func Example() {
	pool, err := ipam.Open(ipam.Config{}) // a real agent sets Config.Journal
	if err != nil {
		log.Fatal(err)
	}
	node := &agenttest.Node{MaxENIs: 1, SlotsPerENI: 3, Prefixes: true} // a real agent uses EC2 and the kernel
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: node, Links: node,
		Policy: warmpool.AWS{WarmPrefixTarget: 1},
		Limits: []warmpool.Limits{{MaxENIs: 1, SlotsPerENI: 3, AddressesPerSlot: 16}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()

	// The request waits until the agent has observed its ENI and assigned a prefix.
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f1a", IfName: "eth0"}
	got, err := a.Allocate(wait, ipam.Request{Attachment: pod})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(got[0].Addr, "out of", got[0].Block, "on", got[0].ENI)
	if _, err := a.Release(pod); err != nil {
		log.Fatal(err)
	}

	stop()
	fmt.Println(<-done)
	fmt.Println(len(node.ENIs()), "ENI,", node.Calls()["create"], "created, first block", node.Links()["eni-0"][0])
	// Output:
	// 10.0.0.0 out of 10.0.0.0/28 on eni-0
	// <nil>
	// 1 ENI, 0 created, first block 10.0.0.0/28
}

// subnetNode is a node in a subnet of which the provider knows how much is free.
type subnetNode struct {
	*agenttest.Node
	addrs, prefixes int
}

func (n subnetNode) Observe(ctx context.Context) (agent.Observation, error) {
	o, err := n.Node.Observe(ctx)
	o.FreeAddrs, o.FreePrefixes = &n.addrs, &n.prefixes
	return o, err
}

// While few addresses are free in the subnet, the node keeps few. The calls of the provider
// take a while, as those of EC2 do.
func ExampleObservation() {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		log.Fatal(err)
	}
	node := &agenttest.Node{Latency: 10 * time.Millisecond}
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: subnetNode{node, 20, 0}, Links: node,
		Policy: warmpool.Exhaustion{Policy: warmpool.Band{Low: 8}, Below: 64},
		Limits: []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go a.Run(ctx)

	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f1a", IfName: "eth0"}
	_, err = a.Allocate(wait, ipam.Request{Attachment: pod})
	fmt.Println(err, "fewer than 8 addresses:", len(node.ENIs()[0].Blocks) < 8)
	// Output: <nil> fewer than 8 addresses: true
}
