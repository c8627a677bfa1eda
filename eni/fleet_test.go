// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

var fleet = flag.Int("fleet", 500, "instances of TestFleet")

// TestFleet starts many nodes at once in an account with the throttling that AWS
// documents. In the first round the nodes are new, and each needs an ENI and then
// some addresses. In the second round their agents restart. The test limits the
// number of calls, the time until all nodes are served, and the differences between
// nodes.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, Cloud: enitest.New(enitest.Config{
			Delays: enitest.Delays{Attach: 2 * time.Second, Call: 200 * time.Millisecond},
			Lag:    enitest.Lag{Describe: time.Second, Metadata: 3 * time.Second},
		})}
		var err error
		w.vpc, err = w.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
		w.check(err)
		w.subnet = w.addSubnet("10.0.0.0/17", "", nil)
		nodes := make([]*fleetNode, *fleet)
		for i := range nodes {
			nodes[i] = &fleetNode{inst: w.run("m5.large"), journal: eni.NewMemory(), rnd: rand.New(rand.NewPCG(1, uint64(i)))}
		}
		time.Sleep(10 * time.Minute)
		w.SetThrottle(enitest.AWSThrottle())
		n := len(nodes)

		r := w.act(nodes, (*fleetNode).grow)
		t.Logf("%d new nodes: %v", n, r)
		// The account allows 5 calls of each kind a second, after 50 or 100 at
		// once. A client cannot be much faster than that.
		ideal := time.Duration(n-50) * time.Second / 5
		if r.last > 3*ideal/2+15*time.Second || r.throttled > 8*n || r.most > 40 {
			t.Errorf("took %v, ideally %v, with %d throttled calls, at most %d calls by a node", r.last, ideal, r.throttled, r.most)
		}
		time.Sleep(10 * time.Minute)

		r = w.act(nodes, (*fleetNode).restart)
		t.Logf("%d agents restarted: %v", n, r)
		if useful := r.calls["DescribeNetworkInterfaces"] - r.throttled; useful != n {
			t.Errorf("%d describe calls without throttling, want %d, one for each node", useful, n)
		}
		if r.last > time.Minute {
			t.Errorf("took %v, want at most a minute", r.last)
		}
	})
}

// fleetNode is one instance of the fleet.
type fleetNode struct {
	inst    enitest.Instance
	journal *eni.Memory
	rnd     *rand.Rand
	took    time.Duration
	err     error
}

// grow does what a node's agent does at its first start: it attaches an ENI and
// assigns more addresses to it, and repeats a call while EC2 throttles.
func (n *fleetNode) grow(ctx context.Context, m *eni.Manager) error {
	var e eni.ENI
	err := n.insist(ctx, func() (err error) {
		e, err = m.Provision(ctx, eni.ProvisionInput{Slots: 5})
		return err
	})
	if err != nil {
		return err
	}
	return n.insist(ctx, func() error {
		_, err := m.Assign(ctx, eni.AssignInput{ENI: e.ID, Slots: 4})
		return err
	})
}

// restart does what an agent does at a restart without unfinished work.
func (n *fleetNode) restart(ctx context.Context, m *eni.Manager) error {
	return n.insist(ctx, func() error {
		if err := m.Resume(ctx); err != nil {
			return err
		}
		inv, err := m.Discover(ctx)
		if err == nil {
			err = inv.EC2Err
		}
		return err
	})
}

// insist repeats a call until it succeeds or ctx ends.
func (n *fleetNode) insist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Second + time.Duration(n.rnd.IntN(4000))*time.Millisecond)
	}
}

// result describes one round.
type result struct {
	calls                             map[string]int
	throttled                         int
	first, median, percentile95, last time.Duration
	// least and most are the numbers of calls of the nodes with the fewest and
	// with the most calls.
	least, most int
}

func (r result) String() string {
	total := 0
	s := ""
	for _, action := range slices.Sorted(maps.Keys(r.calls)) {
		total += r.calls[action]
		s += fmt.Sprintf(" %s=%d", action, r.calls[action])
	}
	return fmt.Sprintf("%d calls, %d of them throttled (%s ); a node is served after %v (first), %v (median), %v (p95), %v (last), and makes %d to %d calls",
		total, r.throttled, s, r.first, r.median, r.percentile95, r.last, r.least, r.most)
}

// act runs one round: every node calls do at the same time, each in a new process.
func (w *world) act(nodes []*fleetNode, do func(*fleetNode, context.Context, *eni.Manager) error) result {
	w.t.Helper()
	w.ResetCalls()
	begin := time.Now()
	var all sync.WaitGroup
	for _, n := range nodes {
		cfg := eni.ClientConfig{Random: n.rnd.Float64}
		m := w.manager(n.inst, eni.Config{Client: eni.NewClient(w.config(n.inst.ID, nil), cfg), Intents: n.journal})
		all.Go(func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
			defer cancel()
			n.err = do(n, ctx, m)
			n.took = time.Since(begin).Truncate(100 * time.Millisecond)
		})
	}
	all.Wait()
	r := result{calls: w.Calls()}
	var took []time.Duration
	for _, n := range nodes {
		w.check(n.err)
		took = append(took, n.took)
	}
	slices.Sort(took)
	r.first, r.median, r.percentile95, r.last = took[0], took[len(took)/2], took[len(took)*95/100], took[len(took)-1]
	each := map[string]int{}
	for _, c := range w.Audit() {
		each[c.Caller]++
		if c.Code == "RequestLimitExceeded" {
			r.throttled++
		}
	}
	counts := slices.Sorted(maps.Values(each))
	r.least, r.most = counts[0], counts[len(counts)-1]
	return r
}
