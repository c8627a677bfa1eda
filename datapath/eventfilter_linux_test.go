// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// TestEventsOfPods holds that a Watch does not look for each pod that comes or goes,
// whether it has known it before or not, and that it does for a damage to it.
func TestEventsOfPods(t *testing.T) {
	h, path := crashNode(t)
	m, err := rtnl.NewMonitor(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, layout := range []Layout{Flat, PerPod} {
		for name, mode := range map[string]Mode{"veth": {}, "bridge": {Bridge: &Bridge{}}} {
			p := Pod{ContainerID: "events", IfName: "eth0", Netns: path, Layout: layout, Mode: mode, Addrs: []PodAddr{
				{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}, {Addr: netip.MustParseAddr("2001:db8::1"), Table: 2},
			}}
			var f eventFilter
			learn := func(pods ...Pod) {
				t.Helper()
				have, err := h.observe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				f.learn(Desired{Node: Node{Layout: layout}, Pods: pods}, have)
			}
			// looks counts the reports since the last call that are a reason to look.
			looks := func() (n int) {
				t.Helper()
				_, err := m.Read(func(e rtnl.Event) {
					if f.concerns(e) {
						n++
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			looks()
			for _, known := range []bool{false, true} {
				learn()
				if known {
					learn(p)
				}
				if _, err := h.AddPod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if n := looks(); n > 0 {
					t.Errorf("%s %s, known %t: %d reasons to look in an ADD", layout, name, known, n)
				}
				learn(p)
				if err := h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: netstate.Link{Name: p.HostLink(), MTU: 1300, Up: true}}}); err != nil {
					t.Fatal(err)
				}
				if looks() == 0 {
					t.Errorf("%s %s: no reason to look though the host link has another MTU", layout, name)
				}
				if err := h.RetirePod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if err := h.Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := looks(); n > 0 {
					t.Errorf("%s %s, known %t: %d reasons to look in a DEL", layout, name, known, n)
				}
			}
		}
	}
}

// TestLostReports fills the buffer for reports: Watch looks, though none of those
// that are left is about anything of ours.
func TestLostReports(t *testing.T) {
	h, _ := crashNode(t)
	m, err := rtnl.NewMonitor(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := unix.SetsockoptInt(m.Route, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	w := &watcher{h: h}
	have, err := h.observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.filter.learn(Desired{}, have)
	foreign := netstate.Rule{Priority: 700, Table: 77, Protocol: 4}
	for range 200 {
		if err := h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: foreign}, {Op: netstate.OpDelete, Item: foreign}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.idle(ctx, m, time.Hour); err != nil {
		t.Errorf("Watch goes on waiting: %v", err)
	}
	if err := w.idle(ctx, m, time.Millisecond); err != nil {
		t.Errorf("Watch does not come back: %v", err)
	}
}
