// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/race"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
	"github.com/vpcnet/vpcnet/warmpool"
)

// memoryEnv names the state directory for the process that measures its own memory.
const memoryEnv = "VPCNET_TEST_MEMORY"

const memoryPods = 1000

// memoryENIs returns 15 ENIs with 70 addresses each.
func memoryENIs() (out []agent.ENI) {
	for n := range 15 {
		e := agent.ENI{ID: fmt.Sprintf("eni-%017x", n), Primary: n == 0, Device: n}
		for s := range 70 {
			e.Blocks = append(e.Blocks, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), byte(10 + s)}), 32))
		}
		out = append(out, e)
	}
	return out
}

// known is a provider that observes the ENIs it has.
type known struct {
	agent.Provider
	enis []agent.ENI
}

func (k known) Observe(context.Context) (agent.Observation, error) {
	return agent.Observation{ENIs: k.enis, Source: "test", At: time.Now()}, nil
}

// idleKernel is a kernel that shows no use by others.
type idleKernel struct{}

func (idleKernel) Uses(context.Context) ([]ipam.Use, error) { return nil, nil }
func (idleKernel) Dead(context.Context, []ipam.Allocation) ([]ipam.Allocation, error) {
	return nil, nil
}

// TestMemoryOfAgent compares the private memory of a process that restarts a pool of
// 1,000 pods on 15 ENIs, with journal and agent, with that of a process of the same
// program that does nothing.
func TestMemoryOfAgent(t *testing.T) {
	if dir, measured := os.LookupEnv(memoryEnv); measured {
		runMeasured(t, dir)
		return
	}
	if race.Enabled {
		t.Log("the race detector needs memory of its own, so only the run without it measures")
		return
	}
	dir := t.TempDir()
	fillJournal(t, dir)
	idle, full := measure(t, ""), measure(t, dir)
	each := (full - idle) / memoryPods
	t.Logf("idle %d kB, with %d pods %d kB: %d bytes a pod", idle>>10, memoryPods, full>>10, each)
	if each > 8<<10 {
		t.Errorf("%d bytes a pod, want at most 8 kB", each)
	}
}

// fillJournal writes the journal of a pool with 1,000 pods.
func fillJournal(t *testing.T, dir string) {
	j, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := ipam.Open(ipam.Config{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range memoryENIs() {
		var blocks []ipam.Block
		for _, p := range e.Blocks {
			blocks = append(blocks, ipam.Block{Prefix: p, ENI: e.ID})
		}
		if err := errors.Join(pool.SetENI(ipam.ENI{ID: e.ID, Device: e.Device}), pool.SetReady(e.ID, true), pool.AddBlocks(blocks...)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range memoryPods {
		id := fmt.Sprintf("%064x", i)
		if _, err := pool.Allocate(t.Context(), ipam.Request{
			Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}, Netns: "/run/netns/cni-" + id[28:], Sandbox: uint64(1 + i),
			Pod: ipam.PodRef{Namespace: "default", Name: fmt.Sprint("deployment-7f9c6bb5d-", i), UID: id[:36]},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// measure runs this test in processes of its own and returns the least private memory of
// one, in bytes: how much garbage a process has at the end is a matter of chance.
func measure(t *testing.T, dir string) int {
	t.Helper()
	return min(measureOnce(t, dir), measureOnce(t, dir), measureOnce(t, dir))
}

func measureOnce(t *testing.T, dir string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemoryOfAgent$", "-test.v")
	cmd.Env = append(os.Environ(), memoryEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, n, ok := strings.Cut(strings.TrimSpace(line), "private memory: "); ok {
			bytes, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			return bytes
		}
	}
	t.Fatalf("no result:\n%s", out)
	return 0
}

// runMeasured prints the private memory of this process, which first serves the pool of
// a state directory, if there is one.
func runMeasured(t *testing.T, dir string) {
	if dir == "" {
		time.Sleep(100 * time.Millisecond)
		t.Logf("private memory: %d", privateMemory(t))
		return
	}
	j, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	pool, err := ipam.Open(ipam.Config{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	enis := memoryENIs()
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: known{enis: enis}, Links: slowLinks{}, Policy: warmpool.Band{High: 1000}, Known: enis, Kernel: idleKernel{},
		Limits: []warmpool.Limits{{MaxENIs: 15, SlotsPerENI: 70}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	time.Sleep(3 * time.Second)
	t.Logf("private memory: %d", privateMemory(t))
	if s := a.Status(); !s.Ready || s.Pool.Attachments != memoryPods {
		t.Errorf("ready %v with %d pods, want %d", s.Ready, s.Pool.Attachments, memoryPods)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// privateMemory returns the bytes of memory that only this process has.
func privateMemory(t *testing.T) (sum int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
			kB, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += kB << 10
		}
	}
	return sum
}
