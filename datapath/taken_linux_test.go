// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// takenPod returns a pod with a sandbox of its own and the addresses that all pods of
// these tests have.
func takenPod(t *testing.T, id string, layout Layout, table int) Pod {
	t.Helper()
	p := Pod{ContainerID: id, IfName: "eth0", Netns: "/run/netns/" + id + "-" + string(layout), Layout: layout, MTU: 1400, Addrs: []PodAddr{
		{Addr: netip.MustParseAddr("10.0.0.101"), Table: table}, {Addr: netip.MustParseAddr("2001:db8::1"), Table: table},
	}}
	newNetns(t, p.Netns)
	return p
}

// wantOwner wants the addresses to be p's, and the node to be as before.
func wantOwner(t *testing.T, h *kernel, p Pod, before string, when string) {
	t.Helper()
	if err := h.CheckPod(t.Context(), p); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if diff := cmp.Diff(before, mustObserve(t, h)); diff != "" {
		t.Errorf("%s: the node changed (-before +after):\n%s", when, diff)
	}
}

// TestAddressTaken adds a second pod, with a veth pair or on a bridge and in either
// layout, with the addresses of a first one.
func TestAddressTaken(t *testing.T) {
	h, _ := crashNode(t)
	for _, layout := range []Layout{Flat, PerPod} {
		for name, mode := range map[string]Mode{"veth": {}, "bridge": {Bridge: &Bridge{}}} {
			first := takenPod(t, "first-"+name, layout, 2)
			first.Mode = mode
			if _, err := h.AddPod(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			before := mustObserve(t, h)
			for _, other := range []Layout{layout, Flat, PerPod} {
				for way, mode := range map[string]Mode{"veth": {}, "bridge": {Bridge: &Bridge{}}} {
					when := fmt.Sprintf("%s %s, then %s %s", layout, name, other, way)
					second := takenPod(t, "second-"+name+way, other, 3)
					second.Mode = mode
					if _, err := h.AddPod(t.Context(), second); !errors.Is(err, ErrAddressTaken) {
						t.Errorf("%s: AddPod = %v, want ErrAddressTaken", when, err)
					}
					after := before
					if way == "bridge" && name == "veth" {
						after = mustObserve(t, h) // the bridge stays
						before = after
					}
					wantOwner(t, h, first, after, when)
					// The DEL of the second pod, which a runtime sends, takes nothing either.
					if err := h.DelPod(t.Context(), second); err != nil {
						t.Errorf("%s: DelPod: %v", when, err)
					}
					wantOwner(t, h, first, after, when+", DEL")
					dropNetns(second.Netns)
				}
			}
			if _, err := h.AddPod(t.Context(), first); err != nil {
				t.Errorf("repeated ADD: %v", err)
			}
			wantOwner(t, h, first, before, "repeated ADD")
			if err := h.DelPod(t.Context(), first); err != nil {
				t.Error(err)
			}
			dropNetns(first.Netns)
		}
	}
}

// TestRacingAdds adds two pods with the same addresses at the same time, again and again.
// Each time exactly one of them is added, and is complete.
func TestRacingAdds(t *testing.T) {
	h, _ := crashNode(t)
	for _, layout := range []Layout{Flat, PerPod} {
		pods := [2]Pod{takenPod(t, "left", layout, 2), takenPod(t, "right", layout, 3)}
		wins := [2]int{}
		empty := mustObserve(t, h)
		for round := range 200 {
			var errs [2]error
			var wg sync.WaitGroup
			for i, p := range pods {
				wg.Go(func() { _, errs[i] = h.AddPod(t.Context(), p) })
			}
			wg.Wait()
			winner := 0
			if errs[0] != nil {
				winner = 1
			}
			if errs[winner] != nil || !errors.Is(errs[1-winner], ErrAddressTaken) {
				t.Fatalf("%s, round %d: %v and %v, want one ErrAddressTaken", layout, round, errs[0], errs[1])
			}
			wins[winner]++
			if err := h.CheckPod(t.Context(), pods[winner]); err != nil {
				t.Fatalf("%s, round %d: %v", layout, round, err)
			}
			if err := h.DelPod(t.Context(), pods[winner]); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(empty, mustObserve(t, h)); diff != "" {
				t.Fatalf("%s, round %d: something stayed (-before +after):\n%s", layout, round, diff)
			}
		}
		t.Logf("%s: %d and %d won", layout, wins[0], wins[1])
	}
}

// TestContestedAddress adds a pod while an ADD of another pod, which is not done, has one
// of its two addresses. If that is the first address, the ADD fails at once. If it is the
// second, the ADD waits until the other pod has given it up.
func TestContestedAddress(t *testing.T) {
	h, _ := crashNode(t)
	for _, layout := range []Layout{Flat, PerPod} {
		for contested := range 2 {
			p, other := takenPod(t, "p", layout, 2), takenPod(t, "other", layout, 3)
			a := newTestAddition(t, h, other)
			if err := a.place(t.Context()); err != nil {
				t.Fatal(err)
			}
			err := h.withConn(t.Context(), func(c *rtnl.Conn) error {
				var b rtnl.Batch
				b.SetLink(a.link.Index, netstate.Link{Up: true})
				if _, err := c.Do(&b); err != nil {
					return err
				}
				return a.claimRoute(c, a.host.Routes[contested])
			})
			if err != nil {
				t.Fatal(err)
			}
			b := newTestAddition(t, h, p)
			if err := b.place(t.Context()); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- b.wireHost(t.Context()) }()
			if contested == 1 {
				select {
				case err := <-ended:
					t.Fatalf("%s: ADD ended with %v while another ADD has its second address", layout, err)
				case <-time.After(20 * time.Millisecond):
				}
				if err := h.withConn(t.Context(), func(c *rtnl.Conn) error { return c.SetLinkGroup(a.link.Index, claims.LinkGroupEnding) }); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-ended; (err == nil) != (contested == 1) || err != nil && !errors.Is(err, ErrAddressTaken) {
				t.Errorf("%s: ADD with address %d contested: %v", layout, contested, err)
			}
			for _, p := range []Pod{p, other} {
				if err := h.DelPod(t.Context(), p); err != nil {
					t.Error(err)
				}
				dropNetns(p.Netns)
			}
		}
	}
}

// TestLateAdd stops an ADD after each of its steps. Its pod is deleted, the addresses go
// to another pod, and then the ADD continues. The new owner must lose nothing.
func TestLateAdd(t *testing.T) {
	h, _ := crashNode(t)
	for _, layout := range []Layout{Flat, PerPod} {
		for stop := range 9 {
			for name, end := range map[string]func(context.Context, Pod) error{"DelPod": h.DelPod, "RetirePod": h.RetirePod} {
				late, owner := takenPod(t, "late", layout, 2), takenPod(t, "owner", layout, 3)
				steps := lateSteps(t, h, late)
				when := fmt.Sprintf("%s, stopped before step %d, %s", layout, stop, name)
				for _, step := range steps[:min(stop, len(steps))] {
					if err := step(); err != nil {
						t.Fatalf("%s: %v", when, err)
					}
				}
				if err := end(t.Context(), late); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				if _, err := h.AddPod(t.Context(), owner); err != nil {
					t.Fatalf("%s: AddPod of the new owner: %v", when, err)
				}
				var err error
				for _, step := range steps[min(stop, len(steps)):] {
					if err = step(); err != nil {
						break
					}
				}
				if err == nil && stop < len(steps)-1 { // the last step only waits
					t.Errorf("%s: the late ADD succeeded", when)
				}
				if err := h.CheckPod(t.Context(), owner); err != nil {
					t.Errorf("%s: the new owner: %v", when, err)
				}
				if err := h.DelPod(t.Context(), late); err != nil { // the undo of the late ADD
					t.Error(err)
				}
				if err := h.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
				if err := h.CheckPod(t.Context(), owner); err != nil {
					t.Errorf("%s: the new owner after the undo: %v", when, err)
				}
				if err := h.DelPod(t.Context(), owner); err != nil {
					t.Error(err)
				}
				dropNetns(late.Netns)
				dropNetns(owner.Netns)
			}
		}
	}
}

// lateSteps are those of AddPod between which a process can be stopped for long. In the
// per-pod layout the claim and the rules are one step, because the lock that no DEL passes
// is held from one to the other.
func lateSteps(t *testing.T, h *kernel, p Pod) (steps []func() error) {
	t.Helper()
	a := newTestAddition(t, h, p)
	for i, step := range a.steps() {
		if i == 4 && p.layout() == Flat {
			for _, half := range []func(*rtnl.Conn) error{func(c *rtnl.Conn) error { return a.claim(t.Context(), c) }, a.replaceRules} {
				steps = append(steps, func() error { return h.withConn(t.Context(), half) })
			}
			continue
		}
		steps = append(steps, func() error { return step(t.Context()) })
	}
	return steps
}
