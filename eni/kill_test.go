// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestKillEverywhere kills the process at each point of each operation in turn:
// before and after every write to the journal and every call to EC2. The next
// process must finish or undo the operation without a leak.
func TestKillEverywhere(t *testing.T) {
	ops := []struct {
		name string
		do   func(x *killableNode) error
		// enis is how many ENIs the instance may have afterwards.
		enis []int
	}{
		{"provision", func(x *killableNode) error {
			_, err := x.m.Provision(x.t.Context(), eni.ProvisionInput{Slots: 3})
			return err
		}, []int{2, 3}}, // 2 if it was killed before the first write to the journal
		{"retire", func(x *killableNode) error { return x.m.Retire(x.t.Context(), x.eni.ID) }, []int{1, 2}},
		{"assign", func(x *killableNode) error {
			_, err := x.m.Assign(x.t.Context(), eni.AssignInput{ENI: x.eni.ID, Slots: 2})
			return err
		}, []int{2}},
		{"unassign", func(x *killableNode) error {
			return x.m.Unassign(x.t.Context(), eni.UnassignInput{ENI: x.eni.ID, Blocks: x.eni.Blocks()[:2]})
		}, []int{2}},
	}
	for _, op := range ops {
		for fuse, survived := 1, false; !survived; fuse++ {
			t.Run(fmt.Sprintf("%s/%d", op.name, fuse), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					x := newKillableNode(t)
					x.fuse = fuse
					survived = !x.isKilled(func() { x.check(op.do(x)) })
					x.fuse = 0
					x.restart(op.enis)
				})
			})
			if t.Failed() {
				return
			}
		}
	}
}

// killableNode is a node with a process that the test can kill.
type killableNode struct {
	*world
	inst enitest.Instance
	m    *eni.Manager
	eni  eni.ENI
	cfg  eni.Config
	mu   sync.Mutex // guards fuse while both sources are asked
	fuse int        // how many points are left until the process is killed; 0 means never
}

func newKillableNode(t *testing.T) *killableNode {
	x := &killableNode{world: newWorld(t, enitest.Config{
		Delays: enitest.Delays{Attach: time.Second, Detach: time.Second, Call: 50 * time.Millisecond},
		Lag:    enitest.Lag{Describe: 3 * time.Second, Metadata: 20 * time.Second},
	})}
	x.inst = x.run("m5.large")
	time.Sleep(5 * time.Minute)
	x.cfg = eni.Config{Intents: &killable{Memory: eni.NewMemory(), burn: x.burn}}
	x.boot()
	x.eni = x.provision(x.m, eni.ProvisionInput{Slots: 4})
	time.Sleep(5 * time.Minute)
	return x
}

// boot starts a new process.
func (x *killableNode) boot() {
	x.cfg.Client = eni.NewClient(x.config(x.inst.ID, func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			x.burn()
			resp, err := rt.RoundTrip(r)
			x.burn()
			return resp, err
		})
	}), fast)
	x.m = x.manager(x.inst, x.cfg)
}

// burn is called at every point where the process can be killed.
func (x *killableNode) burn() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fuse == 0 {
		return
	}
	if x.fuse--; x.fuse == 0 {
		panic(killed{})
	}
}

// isKilled reports whether the process is killed while it runs f.
func (x *killableNode) isKilled(f func()) (dead bool) {
	defer func() {
		p := recover()
		if p != nil && p != (killed{}) {
			panic(p)
		}
		dead = p != nil
	}()
	f()
	return false
}

// restart starts the next process and checks that it finishes all operations.
func (x *killableNode) restart(enis []int) {
	x.t.Helper()
	x.boot()
	x.check(x.m.Resume(x.t.Context()))
	time.Sleep(5 * time.Minute)
	x.check(x.m.Resume(x.t.Context()))
	inv, err := x.m.Discover(x.t.Context())
	x.check(err)
	if open, err := x.m.Unfinished(x.t.Context()); err != nil || len(open) > 0 {
		x.t.Errorf("still unfinished: %+v, %v", open, err)
	}
	if have := len(x.ENIs()); have != len(inv.ENIs) || have < enis[0] || have > enis[len(enis)-1] {
		x.t.Errorf("%d ENIs in the cloud, %d known, want %v", have, len(inv.ENIs), enis)
	}
	for _, e := range inv.ENIs {
		have, _ := x.ENI(e.ID)
		if got, want := fmt.Sprint(e.Blocks(), e.InFlight), fmt.Sprint(sorted(blocks(have)), false); got != want {
			x.t.Errorf("%s: known %s, in the cloud %s", e.ID, got, want)
		}
		if !e.Primary && (!have.Attachment.DeleteOnTermination || !e.ForPods()) {
			x.t.Errorf("%s is not complete: %+v", e.ID, e)
		}
	}
}

// sorted returns the blocks in the order of ENI.Blocks, single addresses first.
func sorted(in []netip.Prefix) []netip.Prefix {
	var e eni.ENI
	for _, b := range in {
		if b.IsSingleIP() {
			e.Addrs = append(e.Addrs, b.Addr())
		} else {
			e.Prefixes = append(e.Prefixes, b)
		}
	}
	return e.Blocks()
}
