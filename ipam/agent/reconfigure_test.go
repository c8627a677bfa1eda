// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// TestReconfigure checks that an agent at rest follows another policy and other limits at
// once, also before Run, and that an invalid one changes nothing.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		limits := []warmpool.Limits{{MaxENIs: w.cloud.maxENIs, SlotsPerENI: w.cloud.slots}}
		free := func(want int) {
			t.Helper()
			waitUntilIdle()
			if got := p.Status().Free; got != want {
				t.Errorf("%d free addresses, want %d", got, want)
			}
		}
		free(4)
		for _, warm := range []int{9, 1, 6} {
			if err := p.Reconfigure(warmpool.AWS{WarmIPTarget: warm}, limits); err != nil {
				t.Fatal(err)
			}
			free(warm)
		}
		if err := p.Reconfigure(warmpool.AWS{WarmIPTarget: 1}, limits); err != nil {
			t.Fatal(err)
		}
		free(1)
		// Three pods with ENIs of their own leave four addresses of seven to the pool, until
		// they end.
		capped := []warmpool.Limits{limits[0]}
		capped[0].MaxPods = 7
		p.pool.SetOtherPods(3)
		if err := p.Reconfigure(warmpool.AWS{WarmIPTarget: 9}, capped); err != nil {
			t.Fatal(err)
		}
		free(4)
		p.pool.SetOtherPods(0)
		free(7)
		for name, err := range map[string]error{
			"no policy":           p.Reconfigure(nil, limits),
			"an empty policy":     p.Reconfigure(warmpool.Shadow{}, limits),
			"no limits":           p.Reconfigure(warmpool.AWS{}, nil),
			"limits of two cards": p.Reconfigure(warmpool.AWS{}, append(limits, limits...)),
		} {
			if !errors.Is(err, agent.ErrConfig) {
				t.Errorf("Reconfigure with %s: %v, want %v", name, err, agent.ErrConfig)
			}
		}
		free(7)
	})
}

// TestReconfigureBeforeRun checks that an agent begins with what Reconfigure was told before.
func TestReconfigureBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		limits := []warmpool.Limits{{MaxENIs: w.cloud.maxENIs, SlotsPerENI: w.cloud.slots}}
		w.prepare = func(a *agent.Agent) {
			if err := a.Reconfigure(warmpool.AWS{WarmIPTarget: 1}, limits); err != nil {
				t.Fatal(err)
			}
		}
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		if got := p.Status().Free; got != 1 || w.cloud.count("assign") != 1 {
			t.Errorf("%d free addresses after the calls %v, want 1 by one assign", got, w.cloud.calls)
		}
	})
}

// bindings is a Demand that tests change.
type bindings struct {
	changed chan struct{}
	mu      sync.Mutex
	pods    []ipam.PodRef
}

func (b *bindings) Bound() []ipam.PodRef {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.pods)
}

func (b *bindings) Changed() <-chan struct{} { return b.changed }

func (b *bindings) bind(name string) {
	b.mu.Lock()
	b.pods = append(b.pods, ipam.PodRef{Namespace: "default", Name: name})
	b.mu.Unlock()
	b.changed <- struct{}{}
}

// TestDemand checks that the pool grows when pods are bound, by one call for a burst, before
// an address is requested, whatever the policy is, and that pods with addresses are not
// counted twice.
func TestDemand(t *testing.T) {
	for name, policy := range map[string]warmpool.Policy{
		"no spare": warmpool.AWS{WarmIPTarget: 0, MinimumIPTarget: 1}, "never": never{}, "band": warmpool.Band{},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			demand := &bindings{changed: make(chan struct{}, 1)}
			w.config = func(c *agent.Config) { c.Policy, c.Demand = policy, demand }
			p := w.boot(0)
			defer p.stop()
			waitUntilIdle()
			calls := w.cloud.count("assign") + w.cloud.count("create")
			const pods = 5
			need := pods - p.Status().Free
			for i := range pods {
				demand.bind(string(rune('a' + i)))
				synctest.Wait()
			}
			waitUntilIdle()
			if name != "band" && need > 0 && w.cloud.count("assign")+w.cloud.count("create") > calls+1 {
				t.Errorf("%s: calls %v, want one for the burst", name, w.cloud.calls)
			}
			free := p.Status().Free
			if free < pods {
				t.Fatalf("%s: %d addresses are free for %d bound pods", name, free, pods)
			}
			calls = w.cloud.count("assign") + w.cloud.count("create")
			for _, pod := range demand.Bound() {
				r := ipam.Request{Attachment: attachment(pod.Name), Pod: ipam.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: "1"}, Netns: "/run/netns/" + pod.Name}
				if _, err := p.Allocate(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				w.pods[pod.Name] = p.pool.Lookup(r.Attachment)
				w.mu.Unlock()
			}
			waitUntilIdle()
			if n := w.cloud.count("assign") + w.cloud.count("create"); name != "band" && n != calls {
				t.Errorf("%s: %d calls for pods that were bound before, want none", name, n-calls)
			}
			if got := p.Status().Free; name != "band" && got != free-pods {
				t.Errorf("%s: %d free addresses, want %d", name, got, free-pods)
			}
		})
	}
}
