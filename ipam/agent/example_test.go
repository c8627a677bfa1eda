// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// oneENI is a provider of one ENI, to which it assigns any number of prefixes.
type oneENI struct{ assigned int }

func (f *oneENI) Observe(context.Context) (agent.Observation, error) {
	primary := agent.ENI{ID: "eni-0a1b", Primary: true}
	return agent.Observation{ENIs: []agent.ENI{primary}, Source: "example", At: time.Now()}, nil
}

func (f *oneENI) Assign(_ context.Context, in agent.AssignInput) (out []netip.Prefix, err error) {
	for range in.Slots {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(16 * f.assigned)}), 28))
		f.assigned++
	}
	return out, nil
}

func (f *oneENI) CreateENI(context.Context, agent.CreateInput) (agent.ENI, error) {
	return agent.ENI{}, fmt.Errorf("the instance has one ENI only")
}
func (f *oneENI) Unassign(context.Context, string, []netip.Prefix) error { return nil }
func (f *oneENI) DeleteENI(context.Context, string) error                { return nil }

// upLinks is a node on which all links are up.
type upLinks struct{}

func (upLinks) Ensure(context.Context, agent.ENI) error { return nil }
func (upLinks) Remove(context.Context, string) error    { return nil }

func Example() {
	pool, err := ipam.Open(ipam.Config{}) // a real agent sets Config.Journal
	if err != nil {
		log.Fatal(err)
	}
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: &oneENI{}, Links: upLinks{},
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
	// Output:
	// 10.0.0.0 out of 10.0.0.0/28 on eni-0a1b
	// <nil>
}
