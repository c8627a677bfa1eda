// SPDX-License-Identifier: Apache-2.0

package agenttest_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/agent/agenttest"
	"github.com/vpcnet/vpcnet/warmpool"
)

// TestPolicyOverADay shows how a policy is tested: pods come by day and go at night, and
// the node has no more ENIs than they need.
func TestPolicyOverADay(t *testing.T) {
	for _, prefixes := range []bool{false, true} {
		t.Run(fmt.Sprint("prefixes ", prefixes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &agenttest.Node{Latency: time.Second, Prefixes: prefixes}
				limits := warmpool.Limits{MaxENIs: 3, SlotsPerENI: 9}
				if prefixes {
					limits.AddressesPerSlot = 16
				}
				pool, err := ipam.Open(ipam.Config{})
				if err != nil {
					t.Fatal(err)
				}
				a, err := agent.New(agent.Config{
					Pool: pool, Provider: n, Links: n, Policy: warmpool.Band{}, Limits: []warmpool.Limits{limits},
					Families: []ipam.Family{ipam.IPv4, ipam.IPv6},
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- a.Run(ctx) }()
				for i := range 20 {
					wait, cancel := context.WithTimeout(ctx, time.Minute)
					got, err := a.Allocate(wait, ipam.Request{Attachment: pod(i)})
					cancel()
					if err != nil || len(got) != 2 {
						t.Fatalf("pod %d: %v, %v; want an address of each family", i, got, err)
					}
					if carried := n.Links()[got[0].ENI]; !slices.ContainsFunc(carried, func(p netip.Prefix) bool { return p.Contains(got[0].Addr) }) {
						t.Errorf("%v of %s is not on its link, which carries %v", got[0].Addr, got[0].ENI, carried)
					}
				}
				day := len(n.ENIs())
				for i := range 20 {
					if _, err := a.Release(pod(i)); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(3 * time.Hour)
				if night := len(n.ENIs()); !prefixes && (day != 3 || night != 1) || prefixes && (day != 1 || night != 1) {
					t.Errorf("%d ENIs by day and %d at night", day, night)
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func pod(i int) ipam.Attachment {
	return ipam.Attachment{Network: "n", ContainerID: fmt.Sprint("c", i), IfName: "eth0"}
}

// TestLimits checks that the node refuses what EC2 refuses, with its reason, and that
// repeating a call is safe.
func TestLimits(t *testing.T) {
	ctx := t.Context()
	var n agenttest.Node
	for range 2 {
		if _, err := n.CreateENI(ctx, agent.CreateInput{Slots: 20, Families: []ipam.Family{ipam.IPv4}}); err != nil {
			t.Fatal(err)
		}
	}
	enis := n.ENIs()
	if len(enis) != 3 || len(enis[1].Blocks) != 9 || enis[1].Device == enis[2].Device {
		t.Fatalf("ENIs %+v, want 3 with 9 slots at different devices", enis)
	}
	_, createErr := n.CreateENI(ctx, agent.CreateInput{})
	_, assignErr := n.Assign(ctx, agent.AssignInput{ENI: enis[1].ID, Family: ipam.IPv4, Slots: 1})
	_, unknownErr := n.Assign(ctx, agent.AssignInput{ENI: "eni-9", Family: ipam.IPv4, Slots: 1})
	for err, want := range map[error]ipam.Reason{
		createErr: ipam.ReasonENILimit, assignErr: ipam.ReasonSlotLimit, unknownErr: ipam.ReasonNotManaged, n.DeleteENI(ctx, enis[0].ID): ipam.ReasonNotManaged,
	} {
		if err == nil || agent.ReasonOf(err) != want {
			t.Errorf("%v, want the reason %s", err, want)
		}
	}
	for range 2 {
		if err := n.Unassign(ctx, enis[1].ID, enis[1].Blocks[:1]); err != nil {
			t.Error(err)
		}
		if err := n.DeleteENI(ctx, enis[2].ID); err != nil {
			t.Error(err)
		}
	}
	if left := n.ENIs(); len(left) != 2 || len(left[1].Blocks) != 8 || n.Calls()["delete"] != 3 {
		t.Errorf("ENIs %+v and calls %v, want 2 ENIs, 8 blocks and 3 deletes", left, n.Calls())
	}
	late, cancel := context.WithCancel(ctx)
	cancel()
	n2 := &agenttest.Node{Latency: time.Hour}
	if _, err := n2.Observe(late); err == nil {
		t.Error("a call with an ended context succeeded")
	}
}
