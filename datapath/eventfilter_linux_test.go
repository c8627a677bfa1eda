// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// TestEventsOfPods adds and deletes pods: no report is a reason for Watch to look,
// whether it knew the pod before or not. A damage to a pod is a reason.
func TestEventsOfPods(t *testing.T) {
	h, path := crashNode(t)
	m, err := rtnl.NewMonitor(h.ns, reportBuffer)
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
			reset := func(pods ...Pod) {
				t.Helper()
				have, err := h.observe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				f.reset(Desired{Node: Node{Layout: layout}, Pods: pods}, have)
			}
			// looks returns how many reports since the last call are a reason to look.
			looks := func() (n int) {
				t.Helper()
				_, err := m.Read(f.names, func(e rtnl.Event) {
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
				reset()
				if known {
					reset(p)
				}
				if _, err := h.AddPod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if n := looks(); n > 0 {
					t.Errorf("%s %s, known %t: %d reasons to look in an ADD", layout, name, known, n)
				}
				reset(p)
				if err := h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: netstate.Link{Name: p.HostLink(), MTU: 1300, Up: true}}}); err != nil {
					t.Fatal(err)
				}
				if looks() == 0 {
					t.Errorf("%s %s: no reason to look, but the host link has another MTU", layout, name)
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

// TestLostReports fills the buffer for reports with some about a rule of another
// program. Watch looks, because reports were lost.
func TestLostReports(t *testing.T) {
	h, _ := crashNode(t)
	m, err := rtnl.NewMonitor(h.ns, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w := newWatcher(h, WatchConfig{})
	have, err := h.observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.filter.reset(Desired{}, have)
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

// TestReportsBeforeFirstLook reads reports before the first look, as Watch does when that
// look fails.
func TestReportsBeforeFirstLook(t *testing.T) {
	h, _ := crashNode(t)
	m, err := rtnl.NewMonitor(h.ns, reportBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w := newWatcher(h, WatchConfig{})
	if err := h.applyVirtual(t.Context(), netstate.Link{Name: "early", Kind: "bridge"}); err != nil {
		t.Fatal(err)
	}
	if err := w.idle(t.Context(), m, 10*time.Millisecond); err != nil {
		t.Error(err)
	}
}
