// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

var silentRounds = flag.Int("silent-rounds", 60, "how often TestWatchIsSilent adds and deletes each pod")

// churn does what an agent and its plugins do to a node, all at once.
type churn struct {
	*lab
	mu   sync.Mutex // held while the agent changes node, or Watch looks
	node datapath.Node
	pods []datapath.Pod
}

func (c *churn) desired() datapath.Desired { return datapath.Desired{Node: c.node, Pods: c.pods} }

// exclusive works as that of the agent: looks and changes of the node take turns.
func (c *churn) exclusive(_ context.Context, f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}

// addAndDelete adds a pod twice, and deletes or retires it.
func (c *churn) addAndDelete(ctx context.Context, p datapath.Pod, round int) error {
	for range 2 {
		if _, err := c.h.AddPod(ctx, p); err != nil {
			return fmt.Errorf("AddPod: %w", err)
		}
	}
	if round%3 > 0 {
		return c.h.RetirePod(ctx, p)
	}
	return c.h.DelPod(ctx, p)
}

// agent changes the ENIs, sources and addresses in use of the node, and sweeps, until stop
// is closed.
func (c *churn) agent(ctx context.Context, all datapath.Node, stop <-chan struct{}) (changes int, err error) {
	for ; ; changes++ {
		select {
		case <-stop:
			return changes, nil
		default:
		}
		err := c.exclusive(ctx, func() error {
			n := all
			n.ENIs = slices.Clone(all.ENIs)
			switch changes % 4 {
			case 0:
				n.ENIs = n.ENIs[:2]
			case 1:
				n.ENIs[0].Sources = n.ENIs[0].Sources[:1]
			case 2:
				n.InUse = []netip.Addr{netip.MustParseAddr("10.0.0.143"), netip.MustParseAddr("10.0.1.101")}
			}
			c.node = n
			return c.h.EnsureNode(ctx, n)
		})
		if err == nil {
			err = c.h.Sweep(ctx)
		}
		if err != nil {
			return changes, err
		}
	}
}

// TestWatchIsSilent adds pods twice, deletes them and changes the node while Watch runs:
// Watch repairs nothing. Then it repairs a damage at once.
func TestWatchIsSilent(t *testing.T) {
	const workers = 6
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			all := testNode(layout)
			l.AttachENI(2, all.ENIs[2])
			l.ensure()
			c := &churn{lab: l, node: *l.n}
			for i := range workers {
				p := l.pod(1, fmt.Sprintf("churn-%d", i))
				p.Addrs = podAddrs(fmt.Sprintf("10.0.0.%d", 112+i), fmt.Sprintf("2001:db8:0:1:b::%d", 10+i))
				c.pods = append(c.pods, p)
			}
			steady := l.pod(1, "steady")
			l.add(steady)
			c.pods = append(c.pods, steady)
			repairs, end := c.watch(t)
			stop, changed := make(chan struct{}), make(chan int, 1)
			go func() {
				n, err := c.agent(t.Context(), all, stop)
				if err != nil {
					t.Errorf("agent: %v", err)
				}
				changed <- n
			}()
			var wg sync.WaitGroup
			for _, p := range c.pods[:workers] {
				wg.Go(func() {
					for round := range *silentRounds {
						if err := c.addAndDelete(t.Context(), p, round); err != nil {
							t.Errorf("%s, round %d: %v", p.ContainerID, round, err)
							return
						}
					}
				})
			}
			wg.Wait()
			close(stop)
			changes := <-changed
			c.deleteRoutes(steady, repairs)
			end()
			t.Logf("%d ADDs and DELs, %d changes of the node", 3*workers**silentRounds, changes)
		})
	}
}

// watch starts a Watch; the returned function ends it.
func (c *churn) watch(t *testing.T) (<-chan datapath.Repair, func()) {
	repairs, done := make(chan datapath.Repair, 10000), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- c.h.Watch(ctx, datapath.WatchConfig{
			Desired: c.desired, Exclusive: c.exclusive, Repaired: func(r datapath.Repair) { repairs <- r },
			Every: 5 * time.Millisecond, // Watch looks all the time, whatever the kernel reports
		})
	}()
	return repairs, func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want context.Canceled", err)
		}
	}
}

// deleteRoutes deletes the routes to a pod. They must be the first repairs.
func (c *churn) deleteRoutes(p datapath.Pod, repairs <-chan datapath.Repair) {
	c.t.Helper()
	for len(repairs) > 0 {
		r := <-repairs
		c.t.Errorf("repaired %v, but nothing was damaged", r.Changes)
	}
	for _, r := range p.HostState().Routes {
		if err := c.h.Apply(c.t.Context(), []netstate.Change{{Op: netstate.OpDelete, Item: r}}); err != nil {
			c.t.Fatal(err)
		}
		select {
		case got := <-repairs:
			if len(got.Changes) != 1 || got.Changes[0].Item != netstate.Item(r) {
				c.t.Errorf("repaired %v, want %v", got.Changes, r)
			}
		case <-time.After(10 * time.Second):
			c.t.Errorf("not repaired: %v", r)
		}
	}
}
