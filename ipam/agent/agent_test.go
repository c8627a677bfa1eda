// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// world is everything that outlives a process: EC2, the kernel, the disk, and
// the pods with the addresses that they have.
type world struct {
	t      *testing.T
	cloud  *cloud
	kernel *kernel
	disk   *disk
	config func(*agent.Config)
	// prepare is called with each agent before it runs.
	prepare func(*agent.Agent)
	// burst is the number of pods that day adds at once, at its start.
	burst int

	mu sync.Mutex
	// pods are the running pods: the kernel has a route and a link for each.
	pods map[string][]ipam.Allocation
	// ended are the sandboxes that are gone.
	ended map[string]bool
	// lost are the pods for which the journal has no address or an old one.
	lost map[string]bool
	// audits counts the calls of Kernel.Uses.
	audits int
	// events are the events that Config.Notify received.
	events []agent.Event
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, cloud: newCloud(), kernel: newKernel(), disk: &disk{}, pods: map[string][]ipam.Allocation{}, ended: map[string]bool{}, lost: map[string]bool{}, config: func(*agent.Config) {}, prepare: func(*agent.Agent) {}}
	w.cloud.inUse = func(b netip.Prefix) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, have := range w.pods {
			if slices.ContainsFunc(have, func(a ipam.Allocation) bool { return b.Contains(a.Addr) }) {
				return true
			}
		}
		return false
	}
	return w
}

// process is one running agent.
type process struct {
	*world
	*agent.Agent
	kill *killSwitch
	pool *ipam.Pool
	stop func()
}

// boot starts an agent, which is killed at its killAt-th step.
func (w *world) boot(killAt int) *process {
	w.t.Helper()
	kill := newKillSwitch(killAt)
	pool, err := ipam.Open(ipam.Config{Journal: killableJournal{kill, w.disk}, Cooldown: 30 * time.Second, Witness: w.uses})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := agent.Config{
		Pool: pool, Provider: killableProvider{kill, w.cloud}, Links: killableLinks{kill, w.kernel},
		Policy: warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 4},
		Limits: []warmpool.Limits{{MaxENIs: w.cloud.maxENIs, SlotsPerENI: w.cloud.slots, AddressesPerSlot: 1}},
		Rand:   func() float64 { return 0.5 }, Kernel: podKernel{world: w}, Notify: w.note,
	}
	if w.cloud.prefixes {
		cfg.Limits[0].AddressesPerSlot = 16
	}
	w.config(&cfg)
	a, err := agent.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.prepare(a)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return &process{w, a, kill, pool, func() { cancel(); <-done }}
}

func attachment(pod string) ipam.Attachment {
	return ipam.Attachment{Network: "net", ContainerID: pod, IfName: "eth0"}
}

// add is a CNI ADD that waits for at most limit.
func (p *process) add(pod string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := p.Allocate(ctx, ipam.Request{Attachment: attachment(pod), Netns: "/run/netns/" + pod})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range got {
		for other, have := range p.pods {
			if other != pod && slices.ContainsFunc(have, func(b ipam.Allocation) bool { return a.Addr == b.Addr }) {
				p.t.Errorf("%v belongs to both %s and %s", a.Addr, other, pod)
			}
		}
		if old := p.pods[pod]; old == nil && !p.kernel.carries(a.ENI, a.Addr) {
			p.t.Errorf("%v was allocated before its ENI %s had a link with it", a.Addr, a.ENI)
		}
	}
	if old := p.pods[pod]; old != nil && old[0].Addr != got[0].Addr {
		p.t.Errorf("%s got %v first and %v later", pod, old[0].Addr, got[0].Addr)
	}
	p.pods[pod] = got
	delete(p.ended, pod)
	return nil
}

// del is a CNI DEL. The sandbox ends before the agent gets the request.
func (p *process) del(pod string) error {
	p.end(pod)
	_, err := p.Release(attachment(pod))
	if errors.Is(err, ipam.ErrNotAllocated) {
		return nil
	}
	return err
}

// check checks the invariants that hold at every moment.
func (w *world) check(p *process) {
	w.t.Helper()
	w.cloud.mu.Lock()
	for _, b := range w.cloud.broken {
		w.t.Error(b)
	}
	w.cloud.broken = nil
	w.cloud.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for pod, have := range w.pods {
		if w.lost[pod] {
			continue
		}
		if got := p.pool.Lookup(attachment(pod)); len(got) != len(have) || got[0].Addr != have[0].Addr {
			w.t.Errorf("%s holds %v in the pool, want %v", pod, got, have)
		}
	}
}

// waitUntilIdle waits until no task is under way.
func waitUntilIdle() {
	time.Sleep(5 * time.Minute)
	synctest.Wait()
}

func reasonOf(t *testing.T, err error) *ipam.ExhaustedError {
	t.Helper()
	var e *ipam.ExhaustedError
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T) is not an *ExhaustedError", err, err)
	}
	return e
}

func TestFillsPoolThenMakesNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		if s := p.Status(); s.Ready {
			t.Errorf("ready before the first observation: %+v", s)
		}
		if err := p.add("first", time.Minute); err != nil {
			t.Fatal(err)
		}
		waitUntilIdle()
		s := p.Status()
		if !s.Ready || s.Reason != "" || s.Free != 3 || len(s.InFlight) != 0 {
			t.Errorf("status %+v, want ready and idle with 3 free addresses", s)
		}
		w.cloud.mu.Lock()
		before := maps.Clone(w.cloud.calls)
		w.cloud.mu.Unlock()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if diff := cmp.Diff(before, w.cloud.calls); diff != "" {
			t.Errorf("calls during an idle day (-before +after):\n%s", diff)
		}
		w.check(p)
	})
}

func TestBurstOnAnEmptyPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.slots, w.cloud.maxENIs = 49, 15
		w.config = func(c *agent.Config) { c.Policy = warmpool.AWS{MinimumIPTarget: 1} }
		p := w.boot(0)
		defer p.stop()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var worst time.Duration
		start := time.Now()
		for i := range 200 {
			wg.Go(func() {
				if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				worst = max(worst, time.Since(start))
			})
		}
		wg.Wait()
		t.Logf("200 ADDs served within %v with %v", worst, w.cloud.calls)
		w.check(p)
	})
}

func TestRestartKeepsAllocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		for i := range 6 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		waitUntilIdle()
		p.stop()
		w.config = func(c *agent.Config) {
			c.Tombstones = func(_ context.Context, release func(ipam.Attachment) error) error {
				return errors.Join(release(attachment("pod3")), release(attachment("never-was")))
			}
		}
		w.end("pod2")
		delete(w.pods, "pod3")
		w.ended["pod1"] = true // but its link still exists
		q := w.boot(0)
		defer q.stop()
		waitUntilIdle()
		for _, pod := range []string{"pod2", "pod3"} {
			if got := q.pool.Lookup(attachment(pod)); got != nil {
				t.Errorf("%s still holds %v", pod, got)
			}
		}
		w.check(q)
		if !q.Status().Ready {
			t.Errorf("status %+v, want ready", q.Status())
		}
	})
}

// fullDisk is a disk that can become full.
type fullDisk struct {
	disk
	full bool
}

func (d *fullDisk) Append(events []ipam.Event) error {
	if d.full {
		return errors.New("no space left on device")
	}
	return d.disk.Append(events)
}

// TestTombstoneWithFullDisk: if a release cannot be written, the function of
// Config.Tombstones gets the error, so that it can try again later.
func TestTombstoneWithFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		j := &fullDisk{}
		pool := poolWith(t, ipam.Config{Journal: j}, "a")
		j.full = true
		released := errors.New("release was not called")
		a, err := agent.New(agent.Config{
			Pool: pool, Provider: w.cloud, Links: w.kernel, Policy: warmpool.AWS{}, Limits: make([]warmpool.Limits, 1),
			Tombstones: func(_ context.Context, release func(ipam.Attachment) error) error {
				released = release(attachment("a"))
				return released
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the allocation is old enough to be collected
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.Run(ctx); err != nil || !errors.Is(released, ipam.ErrJournal) || pool.Lookup(attachment("a")) == nil {
			t.Errorf("Run %v, release %v, the pod has %v; want nil, ErrJournal and an address", err, released, pool.Lookup(attachment("a")))
		}
	})
}

// TestDeadSandboxRequestedAgain: if an attachment is requested again while its
// sandbox is being found dead, it keeps the new allocation.
func TestDeadSandboxRequestedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		pool := poolWith(t, ipam.Config{}, "a")
		a, err := agent.New(agent.Config{
			Pool: pool, Provider: w.cloud, Links: w.kernel, Policy: warmpool.AWS{}, Limits: make([]warmpool.Limits, 1),
			Kernel: deadAll(func(al ipam.Allocation) {
				if _, err := pool.Release(al.Attachment); err != nil {
					t.Error(err)
				}
				if _, err := pool.Allocate(t.Context(), ipam.Request{Attachment: al.Attachment}); err != nil {
					t.Error(err)
				}
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the allocation is old enough to be collected
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.Run(ctx); err != nil || pool.Lookup(attachment("a")) == nil {
			t.Errorf("Run %v, the pod has %v; want nil and the new allocation", err, pool.Lookup(attachment("a")))
		}
	})
}

// poolWith returns a pool with one ENI, on which pods hold addresses.
func poolWith(t *testing.T, cfg ipam.Config, pods ...string) *ipam.Pool {
	t.Helper()
	pool, err := ipam.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(pool.SetENI(ipam.ENI{ID: "eni-0"}), pool.SetReady("eni-0", true),
		pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.1.0/28"), ENI: "eni-0"}))
	for _, pod := range pods {
		_, failed := pool.Allocate(t.Context(), ipam.Request{Attachment: attachment(pod)})
		err = errors.Join(err, failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// TestRetryAfterIsObeyed: the agent does not retry before the RetryAfter of an
// error has passed.
func TestRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.faults["assign"] = []error{refusal{reason: string(ipam.ReasonThrottled), after: 5 * time.Minute}}
		p := w.boot(0)
		defer p.stop()
		time.Sleep(4 * time.Minute)
		early := w.cloud.count("assign")
		time.Sleep(2 * time.Minute)
		if late := w.cloud.count("assign"); early != 1 || late != 2 {
			t.Errorf("%d calls within 4 minutes, %d within 6, want 1 and 2", early, late)
		}
	})
}
