// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// chaos makes random changes to a node: pods start and end, EC2 fails or loses
// answers, links do not come up, metadata lags, the agent is killed, sandboxes
// end without a DEL, and the journal is lost or replaced by an old one.
type chaos struct {
	*world
	rnd *rand.Rand
	p   *process
	// backup is a journal from some time ago.
	backup []ipam.Event
	// The counts show that a test made enough changes of each kind.
	adds, refusals, kills, losses int
}

func (m *chaos) error() error {
	reasons := []string{"subnet-full", "no-free-prefix", "throttled", "unauthorized", "ec2-unreachable", "eni-limit", "in-use"}
	if n := m.rnd.IntN(len(reasons) + 3); n < len(reasons) {
		return refusal{reason: reasons[n], after: time.Duration(m.rnd.IntN(5)) * time.Second}
	}
	return errLost
}

func (m *chaos) boot() {
	killAt := 0
	if m.rnd.IntN(3) > 0 {
		killAt = 1 + m.rnd.IntN(60)
	}
	m.p = m.world.boot(killAt)
}

func (m *chaos) step() {
	pod := fmt.Sprint("pod", m.rnd.IntN(12))
	switch m.rnd.IntN(12) {
	case 11:
		m.burst()
	case 0, 1, 2, 3:
		if m.lost[pod] {
			return // a runtime creates each sandbox once
		}
		// After an error the runtime gives up on the pod or retries later.
		switch err := m.p.add(pod, time.Duration(1+m.rnd.IntN(20))*time.Second); {
		case err == nil:
			m.adds++
		case !errors.Is(err, ipam.ErrJournal):
			reasonOf(m.t, err)
			m.refusals++
		}
	case 4, 5:
		// The runtime repeats a DEL until it succeeds.
		m.p = m.retryUntilDone(m.p, "del "+pod, func(p *process) error { return p.del(pod) })
	case 6:
		op := []string{"observe", "create", "assign", "unassign", "delete"}[m.rnd.IntN(5)]
		m.cloud.mu.Lock()
		m.cloud.faults[op] = append(m.cloud.faults[op], m.error())
		m.cloud.mu.Unlock()
	case 7:
		m.kernel.mu.Lock()
		m.kernel.failing[fmt.Sprint("eni-", m.rnd.IntN(5))] = m.rnd.IntN(4)
		m.kernel.mu.Unlock()
	case 8:
		time.Sleep(time.Duration(m.rnd.IntN(200)) * time.Second)
	case 9:
		m.end(pod)
	default:
		switch m.rnd.IntN(3) {
		case 0:
			m.p.stop()
			m.loseJournal()
			m.boot()
		case 1:
			m.p.Refresh()
		default:
			time.Sleep(time.Duration(m.rnd.IntN(1000)) * time.Millisecond)
		}
	}
	select {
	case <-m.p.kill.died:
		m.kills++
		m.p.stop()
		m.boot()
	default:
	}
}

// burst adds several pods at once, so that several ENIs may be created at once.
func (m *chaos) burst() {
	limit := time.Duration(1+m.rnd.IntN(20)) * time.Second
	var wg sync.WaitGroup
	for _, i := range m.rnd.Perm(12)[:2+m.rnd.IntN(10)] {
		if pod := fmt.Sprint("pod", i); !m.lost[pod] {
			wg.Go(func() {
				if err := m.p.add(pod, limit); err != nil && !errors.Is(err, ipam.ErrJournal) {
					reasonOf(m.t, err)
				}
			})
		}
	}
	wg.Wait()
}

// loseJournal sometimes deletes the journal or replaces it by an old one. It does
// not do so if the provider lags as well: then no source would know what was
// given back just before. Package eni merges two sources to avoid such a lag.
func (m *chaos) loseJournal() {
	if m.cloud.lag > 0 {
		return
	}
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	switch m.rnd.IntN(4) {
	case 0:
		m.disk.events = nil
	case 1:
		m.disk.events = m.backup
	case 2:
		m.backup = slices.Clone(m.disk.events)
		return
	default:
		return
	}
	m.losses++
	pool, err := ipam.Open(ipam.Config{Journal: &disk{events: slices.Clone(m.disk.events)}})
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for pod, have := range m.pods {
		if got := pool.Lookup(attachment(pod)); len(got) != len(have) || got[0].Addr != have[0].Addr {
			m.lost[pod] = true
		}
	}
}

func (m *chaos) run(policy warmpool.Policy) {
	c := m.cloud
	c.maxENIs, c.slots, c.free = 1+m.rnd.IntN(4), 1+m.rnd.IntN(6), m.rnd.IntN(30)
	c.prefixes = m.rnd.IntN(3) == 0
	c.latency = time.Duration(1+m.rnd.IntN(4000)) * time.Millisecond
	m.kernel.latency = time.Duration(1+m.rnd.IntN(3000)) * time.Millisecond
	if m.rnd.IntN(2) == 0 {
		c.lag = time.Duration(m.rnd.IntN(120)) * time.Second
	}
	maxPods, dual, jitter := m.rnd.IntN(3) == 0, m.rnd.IntN(3) == 0, m.rnd.Float64()
	m.config = func(cfg *agent.Config) {
		cfg.Policy = policy
		cfg.Rand = func() float64 { return jitter }
		if maxPods {
			cfg.Limits[0].MaxPods = 6
		}
		if dual {
			cfg.Families = []ipam.Family{ipam.IPv4, ipam.IPv6}
		}
	}
	m.boot()
	for range 30 {
		m.step()
		m.check(m.p)
		if m.t.Failed() {
			m.p.stop()
			return
		}
	}
	c.mu.Lock()
	clear(c.faults)
	c.free += 100
	c.mu.Unlock()
	m.kernel.mu.Lock()
	clear(m.kernel.failing)
	m.kernel.mu.Unlock()
	m.p.stop()
	for i := range 12 {
		// The sandbox of a failed ADD ends without a DEL.
		if pod := fmt.Sprint("pod", i); m.pods[pod] == nil {
			m.end(pod)
		}
	}
	m.p = m.world.boot(0)
	time.Sleep(time.Hour)
	m.check(m.p)
	m.converged(m.p)
	if m.t.Failed() {
		m.t.Logf("%+v", m.p.Status())
	}
	if !m.p.Status().Ready {
		m.t.Errorf("status %+v, want ready", m.p.Status())
	}
	for a := range m.p.pool.Allocations() {
		if m.pods[a.ContainerID] == nil {
			m.t.Errorf("%v still holds %v although its pod has ended", a.Attachment, a.Addr)
		}
	}
	m.p.stop()
}

func TestModel(t *testing.T) {
	seeds := uint64(700)
	if testing.Short() {
		seeds = 150
	}
	byName := policies(t)
	names := slices.Sorted(maps.Keys(byName))
	var adds, refusals, kills, losses, several int
	calls := map[string]int{}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, policy %s", seed, names[seed%uint64(len(names))])
				}
			}()
			m := &chaos{world: newWorld(t), rnd: rand.New(rand.NewPCG(seed, 1))}
			m.run(byName[names[seed%uint64(len(names))]])
			adds, refusals, kills, losses = adds+m.adds, refusals+m.refusals, kills+m.kills, losses+m.losses
			for op, n := range m.cloud.calls {
				calls[op] += n
			}
			if m.cloud.mostCreating > 1 {
				several++
			}
		})
	}
	if several < int(seeds)/50 {
		t.Errorf("several ENIs were created at once with %d of %d seeds, want at least one in 50", several, seeds)
	}
	t.Logf("several creates at once with %d seeds, %d ADDs served, %d refused, %d kills, %d journals lost or old, calls %v", several, adds, refusals, kills, losses, calls)
}
