// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// uses is an ipam.Witness. It returns the addresses of all running pods.
func (w *world) uses(within []netip.Prefix) (out []ipam.Use, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for pod, have := range w.pods {
		for _, a := range have {
			if slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Contains(a.Addr) }) {
				out = append(out, ipam.Use{Addr: a.Addr, By: "link of " + pod})
			}
		}
	}
	return out, nil
}

// podKernel is an agent.Kernel that reports the pods of a world.
type podKernel struct{ *world }

func (k podKernel) Uses(context.Context) ([]ipam.Use, error) {
	k.mu.Lock()
	k.audits++
	k.mu.Unlock()
	return k.uses([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
}

func (k podKernel) Dead(_ context.Context, held []ipam.Allocation) (out []ipam.Allocation, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range held {
		if k.pods[a.ContainerID] == nil && k.ended[a.ContainerID] {
			out = append(out, a)
		}
	}
	return out, nil
}

// deadAll is a Kernel that reports every allocation dead, after it has called the
// function for it.
type deadAll func(ipam.Allocation)

func (deadAll) Uses(context.Context) ([]ipam.Use, error) { return nil, nil }

func (d deadAll) Dead(_ context.Context, held []ipam.Allocation) ([]ipam.Allocation, error) {
	for _, a := range held {
		d(a)
	}
	return held, nil
}

// end ends a sandbox without a DEL.
func (w *world) end(pod string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, pod)
	delete(w.lost, pod)
	w.ended[pod] = true
}

func (w *world) note(e agent.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// countEvents counts the complete events of a kind.
func (w *world) countEvents(kind agent.EventKind) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind && !e.At.IsZero() && e.Addr.IsValid() && e.Text != "" {
			n++
		}
	}
	return n
}

// fill starts the pods from to to-1.
func (p *process) fill(from, to int) {
	p.t.Helper()
	for i := from; i < to; i++ {
		if err := p.add(fmt.Sprint("pod", i), 2*time.Minute); err != nil {
			p.t.Fatal(err)
		}
	}
}

// TestLostJournal: the journal is lost while pods run. The agent learns their
// addresses from the kernel.
func TestLostJournal(t *testing.T) {
	for name, prefixes := range map[string]bool{"addresses": false, "prefixes": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.cloud.prefixes = prefixes
				p := w.boot(0)
				p.fill(0, 8)
				waitUntilIdle()
				p.stop()
				w.disk.events = nil
				old := maps.Clone(w.pods)
				p = w.boot(0)
				defer p.stop()
				waitUntilIdle()
				if got := len(p.Status().Pool.Quarantined); got != 8 || w.countEvents(agent.EventQuarantined) != 8 {
					t.Errorf("%d addresses quarantined, %d events, want 8 and 8", got, w.countEvents(agent.EventQuarantined))
				}
				p.fill(8, 12) // add checks that no two pods have the same address
				waitUntilIdle()
				w.checkPods(p, old)
				for pod := range old {
					w.end(pod)
				}
				time.Sleep(time.Minute)
				if got := len(p.Status().Pool.Quarantined); got != 0 || w.countEvents(agent.EventUnquarantined) != 8 {
					t.Errorf("%d addresses quarantined after their pods ended, %d events, want 0 and 8", got, w.countEvents(agent.EventUnquarantined))
				}
				w.check(p)
				p.fill(12, 15)
			})
		})
	}
}

// checkPods calls check without the pods that the journal has lost.
func (w *world) checkPods(p *process, lost map[string][]ipam.Allocation) {
	w.t.Helper()
	all := maps.Clone(w.pods)
	maps.DeleteFunc(w.pods, func(pod string, _ []ipam.Allocation) bool { return lost[pod] != nil })
	w.check(p)
	w.mu.Lock()
	w.pods = all
	w.mu.Unlock()
}

// TestOldJournal: with an old journal, pods that started since keep their
// addresses, and no other pod gets these.
func TestOldJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		p.fill(0, 4)
		w.disk.mu.Lock()
		old := slices.Clone(w.disk.events)
		w.disk.mu.Unlock()
		for _, pod := range []string{"pod0", "pod1"} {
			if err := p.del(pod); err != nil {
				t.Fatal(err)
			}
			w.end(pod)
		}
		time.Sleep(time.Minute)
		p.fill(4, 10) // some of them have the addresses of pod0 and pod1
		p.stop()
		w.disk.events = old
		lost := maps.Clone(w.pods)
		delete(lost, "pod2")
		delete(lost, "pod3")
		p = w.boot(0)
		defer p.stop()
		waitUntilIdle()
		p.fill(10, 13)
		waitUntilIdle()
		w.checkPods(p, lost)
	})
}

// TestSandboxesThatEndWithoutDEL: their addresses are released within a minute,
// and at once if an ADD would otherwise fail.
func TestSandboxesThatEndWithoutDEL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var released atomic.Int64
		w.config = func(c *agent.Config) { c.Released = func(all []ipam.Allocation) { released.Add(int64(len(all))) } }
		p := w.boot(0)
		defer p.stop()
		p.fill(0, w.cloud.maxENIs*w.cloud.slots)
		time.Sleep(time.Minute)
		for i := range 5 {
			w.end(fmt.Sprint("pod", i))
		}
		time.Sleep(time.Minute + time.Second)
		if n := released.Load(); n != 5 {
			t.Errorf("Released has got %d allocations after 5 sandboxes ended", n)
		}
		if n := p.pool.View().Attachments; n != w.cloud.maxENIs*w.cloud.slots-5 || w.countEvents(agent.EventReclaimed) != 5 {
			t.Errorf("%d attachments and %d events after 5 sandboxes ended", n, w.countEvents(agent.EventReclaimed))
		}
		time.Sleep(time.Minute)
		p.fill(100, 105)
		time.Sleep(setupGrace)
		for i := range 5 {
			w.end(fmt.Sprint("pod", 5+i))
		}
		start := time.Now()
		p.fill(200, 205)
		if took := time.Since(start); took > 35*time.Second {
			t.Errorf("pods waited %v for the addresses of ended sandboxes, want at most 35s with a cooldown of 30s", took)
		}
		w.check(p)
	})
}

// setupGrace is longer than the agent spares an attachment after a request.
const setupGrace = 11 * time.Second

// TestNewAllocationIsNotCollected: while a plugin sets up an attachment, its
// sandbox may look dead.
func TestNewAllocationIsNotCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		w.end("slow")
		if _, err := p.Allocate(t.Context(), ipam.Request{Attachment: attachment("slow")}); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			time.Sleep(time.Second)
			p.Refresh()
			if p.pool.Lookup(attachment("slow")) == nil {
				t.Fatal("the attachment was released while its plugin may be at work")
			}
		}
		time.Sleep(time.Minute)
		if p.pool.Lookup(attachment("slow")) != nil {
			t.Error("the attachment was never released")
		}
	})
}

// TestRestartWithoutEC2: pods are served within a second from the known ENIs and
// the journal, and the agent changes nothing in EC2.
func TestRestartWithoutEC2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		p.fill(0, 7)
		waitUntilIdle()
		known := w.cloud.copyENIs()
		p.stop()
		w.config = func(c *agent.Config) { c.Known = known }
		latency := w.cloud.latency
		w.cloud.latency = 24 * time.Hour // EC2 hangs
		before := w.cloud.count("assign") + w.cloud.count("create")
		p = w.boot(0)
		defer p.stop()
		start := time.Now()
		p.fill(7, 9)
		if took := time.Since(start); took > time.Second {
			t.Errorf("served after %v, want at most 1s", took)
		}
		synctest.Wait() // the pods were served before the loop goes on
		if s := p.Status(); !s.Ready {
			t.Errorf("status %+v, want ready", s)
		}
		for _, e := range known {
			if !p.kernel.carries(e.ID, e.Blocks[0].Addr()) {
				t.Errorf("the link of %s is not maintained", e.ID)
			}
		}
		w.check(p)
		time.Sleep(time.Minute)
		if after := w.cloud.count("assign") + w.cloud.count("create"); after != before {
			t.Errorf("%d calls that change EC2 before an observation, want none", after-before)
		}
		w.cloud.mu.Lock()
		w.cloud.latency = latency
		w.cloud.mu.Unlock()
		waitUntilIdle()
		waitUntilIdle()
		p.fill(9, 13)
		waitUntilIdle()
		w.check(p)
		w.converged(p)
	})
}

// firstObserved is a provider that calls first before the first observation.
type firstObserved struct {
	agent.Provider
	first func()
}

func (o firstObserved) Observe(ctx context.Context) (agent.Observation, error) {
	o.first()
	return o.Provider.Observe(ctx)
}

// hungLinks are links that are never set up.
type hungLinks struct{ agent.Links }

func (hungLinks) Ensure(ctx context.Context, _ agent.ENI) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestObservationFollowsLinks: the first observation after a restart comes when a link of the
// known ENIs is ready, or after a second if that takes longer.
func TestObservationFollowsLinks(t *testing.T) {
	for _, hung := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.boot(0)
			p.fill(0, 7)
			waitUntilIdle()
			known := w.cloud.copyENIs()
			p.stop()
			ready, at := false, time.Time{}
			w.config = func(c *agent.Config) {
				c.Known = known
				if hung {
					c.Links = hungLinks{c.Links}
				}
				c.Provider = firstObserved{c.Provider, sync.OnceFunc(func() {
					at = time.Now()
					ready = slices.ContainsFunc(c.Pool.View().ENIs, func(n ipam.ENIView) bool { return n.Ready })
				})}
			}
			start := time.Now()
			p = w.boot(0)
			defer p.stop()
			waitUntilIdle()
			if took := at.Sub(start); at.IsZero() || took > time.Second || ready == hung {
				t.Errorf("links hang: %v; observed after %v with a ready ENI: %v", hung, took, ready)
			}
		})
	}
}

// TestKnownENIsAddNoBlocks: blocks that are only in Config.Known do not become
// allocatable.
func TestKnownENIsAddNoBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		p.fill(0, 3)
		waitUntilIdle()
		known := w.cloud.copyENIs()
		p.stop()
		w.disk.events = nil
		w.config = func(c *agent.Config) { c.Known = known }
		w.cloud.latency = 24 * time.Hour
		p = w.boot(0)
		defer p.stop()
		time.Sleep(time.Minute)
		for _, n := range p.pool.View().ENIs {
			if len(n.Blocks) > 0 {
				t.Errorf("%s has %d blocks in the pool, want none", n.ID, len(n.Blocks))
			}
		}
		if !p.kernel.carries("eni-0", known[0].Blocks[0].Addr()) {
			t.Error("the running pods have lost their link")
		}
	})
}

// TestOneRefusalStopsOneENI: EC2 wrongly reports that one ENI is full. The node
// grows on other ENIs at once, and later tries this ENI again.
func TestOneRefusalStopsOneENI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.faults["assign"] = []error{refusal{reason: string(ipam.ReasonSlotLimit)}}
		p := w.boot(0)
		defer p.stop()
		start := time.Now()
		p.fill(0, 6)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("six pods waited %v, want at most 10s", took)
		}
		p.fill(6, 2*w.cloud.slots)
		time.Sleep(5 * time.Minute)
		p.fill(2*w.cloud.slots, w.cloud.maxENIs*w.cloud.slots)
		w.check(p)
	})
}

// failingKernel is a Kernel that cannot list uses.
type failingKernel struct{ podKernel }

func (failingKernel) Uses(context.Context) ([]ipam.Use, error) { return nil, errors.New("no netlink") }

// TestNoAddressesWithoutKernel: while the kernel cannot list uses, no address
// becomes allocatable, and the loop tries again every two seconds.
func TestNoAddressesWithoutKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		w.config = func(c *agent.Config) {
			c.Kernel, c.Logger = failingKernel{podKernel{w}}, slog.New(slog.NewTextHandler(&log, nil))
		}
		p := w.boot(0)
		if err := p.add("a", time.Minute); err == nil {
			t.Error("a pod got an address before an audit")
		}
		p.stop()
		if n := strings.Count(log.String(), "no netlink"); n < 20 || n > 40 {
			t.Errorf("%d audits in a minute, want 20 to 40", n)
		}
	})
}

// slowKernel is a Kernel with a slow Dead.
type slowKernel struct{ podKernel }

func (k slowKernel) Dead(ctx context.Context, held []ipam.Allocation) ([]ipam.Allocation, error) {
	time.Sleep(time.Millisecond)
	return k.podKernel.Dead(ctx, held)
}

// TestAddressOfAnotherPod: in the journal, an ended pod holds the address that
// another pod has. The address is quarantined in the audit that releases the
// ended pod.
func TestAddressOfAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config = func(c *agent.Config) { c.Kernel = slowKernel{podKernel: podKernel{world: w}} }
		p := w.boot(0)
		defer p.stop()
		p.fill(0, 1)
		waitUntilIdle()
		w.mu.Lock()
		w.pods["other"] = w.pods["pod0"]
		w.lost["other"] = true
		w.mu.Unlock()
		w.end("pod0")
		for p.pool.Lookup(attachment("pod0")) != nil {
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if got := p.Status().Pool.Quarantined; len(got) != 1 {
			t.Errorf("quarantined %v, want one address", got)
		}
	})
}

// TestSandboxRecreated: a sandbox that ended without a DEL is created again under
// the same name, in another namespace. Its new allocation is not released.
func TestSandboxRecreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		p.fill(0, 1)
		waitUntilIdle()
		w.end("pod0")
		time.Sleep(25 * time.Second) // found dead once
		got, err := p.Allocate(t.Context(), ipam.Request{Attachment: attachment("pod0"), Netns: "/run/netns/new", Sandbox: 7})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second) // the plugin is at work, and the kernel has nothing of the pod yet
		have := p.pool.Lookup(attachment("pod0"))
		if len(have) != 1 || have[0].Addr != got[0].Addr || have[0].Netns != "/run/netns/new" || have[0].Sandbox != 7 {
			t.Errorf("the pod has %v, want %v in the new sandbox", have, got)
		}
		w.mu.Lock()
		w.pods["pod0"] = have // by now the plugin has wired it
		w.mu.Unlock()
		p.stop()
		p = w.boot(0)
		defer p.stop()
		waitUntilIdle()
		if have := p.pool.Lookup(attachment("pod0")); len(have) != 1 || have[0].Netns != "/run/netns/new" {
			t.Errorf("after a restart the pod has %v, want its address in the new sandbox", have)
		}
	})
}

// TestSuspectReleasedByDEL: after a suspect was released by a DEL, audits keep
// their normal pace.
func TestSuspectReleasedByDEL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		p.fill(0, 1)
		waitUntilIdle()
		w.end("pod0")
		w.mu.Lock()
		before := w.audits
		w.mu.Unlock()
		for seen := before; seen == before; { // until it has been found dead once
			time.Sleep(time.Second)
			w.mu.Lock()
			seen = w.audits
			w.mu.Unlock()
		}
		if _, err := p.Release(attachment("pod0")); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		before = w.audits
		w.mu.Unlock()
		time.Sleep(2 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := w.audits - before; n < 5 || n > 9 {
			t.Errorf("%d audits in two minutes, want 5 to 9", n)
		}
	})
}
