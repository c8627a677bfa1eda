// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/agent/agenttest"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
	"github.com/vpcnet/vpcnet/warmpool"
)

const (
	manyENIs  = 15
	manySlots = 70
	manyPods  = 1000
)

// manyNode returns the ENIs of a large node.
func manyNode() (out []agent.ENI) {
	for n := range manyENIs {
		e := agent.ENI{ID: fmt.Sprintf("eni-%017x", n), Primary: n == 0, Device: n, Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), 1}), 16)}}
		for s := range manySlots {
			e.Blocks = append(e.Blocks, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), byte(10 + s)}), 32))
		}
		out = append(out, e)
	}
	return out
}

// fill gives a pool the ENIs, and an address to each pod.
func fill(tb testing.TB, pool *ipam.Pool, enis []agent.ENI, pods int) {
	tb.Helper()
	for _, e := range enis {
		var blocks []ipam.Block
		for _, p := range e.Blocks {
			blocks = append(blocks, ipam.Block{Prefix: p, ENI: e.ID})
		}
		err := errors.Join(pool.SetENI(ipam.ENI{ID: e.ID, Device: e.Device}), pool.SetReady(e.ID, true), pool.AddBlocks(blocks...))
		if err != nil {
			tb.Fatal(err)
		}
	}
	for i := range pods {
		if _, err := pool.Allocate(tb.Context(), manyRequest(i)); err != nil {
			tb.Fatal(err)
		}
	}
}

func manyRequest(i int) ipam.Request {
	id := fmt.Sprintf("%064x", i)
	return ipam.Request{
		Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}, Netns: "/run/netns/cni-" + id[28:], Sandbox: uint64(1 + i),
		Pod: ipam.PodRef{Namespace: "default", Name: fmt.Sprint("deployment-7f9c6bb5d-", i), UID: id[:36]},
	}
}

// noEC2 is a provider that does not answer.
type noEC2 struct{ agent.Provider }

func (noEC2) Observe(ctx context.Context) (agent.Observation, error) {
	<-ctx.Done()
	return agent.Observation{}, ctx.Err()
}

// quiet is a kernel that shows no use by others.
type quiet struct{}

func (quiet) Uses(context.Context) ([]ipam.Use, error) { return nil, nil }
func (quiet) Dead(context.Context, []ipam.Allocation) ([]ipam.Allocation, error) {
	return nil, nil
}

// BenchmarkRestart measures the time from opening the journal of 1,000 pods on 15 ENIs
// until the agent can serve pods, without EC2 and without the time of the kernel.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	j, _, err := waljournal.Open(b.Context(), dir, waljournal.Config{})
	if err != nil {
		b.Fatal(err)
	}
	pool, err := ipam.Open(ipam.Config{Journal: j})
	if err != nil {
		b.Fatal(err)
	}
	enis := manyNode()
	fill(b, pool, enis, manyPods)
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		j, _, err := waljournal.Open(b.Context(), dir, waljournal.Config{})
		if err != nil {
			b.Fatal(err)
		}
		pool, err := ipam.Open(ipam.Config{Journal: j})
		if err != nil {
			b.Fatal(err)
		}
		a, err := agent.New(agent.Config{
			Pool: pool, Provider: noEC2{}, Links: &agenttest.Node{}, Policy: warmpool.Band{}, Known: enis, Kernel: quiet{},
			Limits: []warmpool.Limits{{MaxENIs: manyENIs, SlotsPerENI: manySlots}},
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		<-a.Ready()
		cancel()
		if err := errors.Join(<-done, j.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
