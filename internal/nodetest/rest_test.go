// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// fullNode is a type with 15 ENIs, which have 735 addresses for pods.
const (
	fullNode     = "m5.24xlarge"
	fullNodePods = 735
)

// TestFullNode fills a node with pods on 15 ENIs, and kills its agent. It logs how soon the
// next agent can serve pods and how much CPU time it needs for that, how much memory it has
// when the start's is given back, and how often it wakes up at rest. At rest the agent must
// make no call to EC2.
func TestFullNode(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	node := Start(t, vpc.Node(t, fullNode), Config{})
	empty := privateMemory(t, node)
	fill(t, node, fullNodePods)
	if s := node.Status(t); len(s.Allocations) != fullNodePods || len(node.ENIs()) != 15 {
		t.Fatalf("%d pods on %d ENIs, want %d on 15", len(s.Allocations), len(node.ENIs()), fullNodePods)
	}
	var times, used []time.Duration
	for range 5 {
		node.Agent.Signal(t, syscall.SIGKILL)
		<-node.Agent.Done()
		start := time.Now()
		node.Run(t)
		// The status has all allocations, and to ask for it all the time would slow the
		// start down. The agent logs that it is ready.
		for !strings.Contains(node.Agent.Output(), "node is ready for pods") {
			if time.Since(start) > patience {
				t.Fatalf("the agent is not ready:\n%s", node.Agent.Output())
			}
			time.Sleep(time.Millisecond)
		}
		times, used = append(times, time.Since(start)), append(used, cpuTime(t, node))
		node.WaitReady(t)
	}
	slices.Sort(times)
	slices.Sort(used)
	t.Logf("%d pods on 15 ENIs: ready %v after a start (median of %v), after %v of CPU time (median of %v)", fullNodePods,
		times[len(times)/2].Round(100*time.Microsecond), times, used[len(used)/2], used)

	// A sweep follows the start by 20 s and more, and the agent gives the memory of its start
	// back after 5 s.
	const settle, rest = 30 * time.Second, 30 * time.Second
	time.Sleep(settle)
	full := privateMemory(t, node)
	t.Logf("private memory: %d kB without pods, %d kB with %d pods: %d bytes a pod", empty>>10, full>>10, fullNodePods, (full-empty)/fullNodePods)
	calls, wakes, awake := vpc.Cloud.Calls(), wakeUps(t, node), 0
	const part = 50 * time.Millisecond
	last := wakes
	for range rest / part {
		time.Sleep(part)
		now := wakeUps(t, node)
		if now != last {
			awake++
		}
		last = now
	}
	if after := vpc.Cloud.Calls(); !maps.Equal(calls, after) {
		t.Errorf("calls to EC2 in %v at rest: before %v, after %v", rest, calls, after)
	}
	// A timer that fires wakes several threads one after the other, so the parts of the time in
	// which any thread has run show how often timers fire.
	t.Logf("awake in %d of %d parts of %v at rest, with %d wake-ups of threads", awake, rest/part, part, wakeUps(t, node)-wakes)
}

// fill adds pods without servers, some at a time.
func fill(t *testing.T, node *Node, pods int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, pods)
	next := make(chan struct{}, pods)
	for range pods {
		next <- struct{}{}
	}
	close(next)
	for range 8 {
		wg.Go(func() {
			for range next {
				if _, err := node.TryPod(t, PodConfig{Silent: true}); err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
}

// privateMemory returns the bytes of memory that only the agent has.
func privateMemory(t *testing.T, node *Node) (sum int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", node.Agent.PID()))
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

// cpuTime returns the CPU time of the agent, in its own code and in the kernel, as a multiple of
// 10 ms.
func cpuTime(t *testing.T, node *Node) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", node.Agent.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may have spaces
	ticks := 0
	for _, f := range strings.Fields(rest)[11:13] { // utime and stime, see proc_pid_stat(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// wakeUps returns how often threads of the agent have waited and run again.
func wakeUps(t *testing.T, node *Node) (sum int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", node.Agent.PID()))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of the agent: %v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(v))
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
	}
	return sum
}
