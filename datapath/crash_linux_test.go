// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// newNetns creates a network namespace at path. The end of the test deletes it.
func newNetns(t testing.TB, path string) {
	t.Helper()
	ns, err := fabric.CreateNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropNetns(path) })
	// An open handle would keep the namespace after its deletion.
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
}

func dropNetns(path string) {
	if ns, err := fabric.OpenNetns(path); err == nil {
		_ = ns.Delete()
	}
}

// crashNode makes a node without ENIs, and a sandbox.
func crashNode(t *testing.T) (h *kernel, sandbox string) {
	t.Helper()
	isolatetest.Require(t)
	node := "/run/netns/node-" + t.Name()
	sandbox = "/run/netns/sandbox-" + t.Name()
	newNetns(t, node)
	newNetns(t, sandbox)
	h, err := openKernel(node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, sandbox
}

// TestKilled stops ADD and DEL after each of their steps, as a kill would. Then ADD and
// DEL must work as if nothing had happened.
func TestKilled(t *testing.T) {
	h, path := crashNode(t)
	var a *addition
	type step struct {
		name string
		do   func(context.Context, Pod) error
	}
	steps := []step{{"nothing", func(_ context.Context, p Pod) error {
		a = newTestAddition(t, h, p)
		return nil
	}}}
	for i := range (&addition{}).steps() {
		steps = append(steps, step{fmt.Sprintf("ADD: step %d", i), func(ctx context.Context, _ Pod) error { return a.steps()[i](ctx) }})
	}
	steps = append(steps,
		step{"DEL: rules", func(ctx context.Context, p Pod) error {
			d := &deletion{h: h, pod: p}
			defer d.leave()
			_, err := d.unwire(ctx, false)
			return err
		}},
		step{"DEL: link", func(ctx context.Context, _ Pod) error { return h.deleteLink(ctx, a.link.Index) }})
	for _, layout := range []Layout{Flat, PerPod} {
		p := Pod{ContainerID: "killed", IfName: "eth0", Netns: path, Layout: layout, MTU: 9001, Addrs: []PodAddr{
			{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}, {Addr: netip.MustParseAddr("2001:db8::1"), Table: 2},
		}}
		for n := range steps {
			for _, then := range []string{"ADD", "DEL", "DEL without addresses"} {
				before := mustObserve(t, h)
				for _, s := range steps[:n+1] {
					if err := s.do(t.Context(), p); err != nil {
						t.Fatalf("%s: %s: %v", layout, s.name, err)
					}
				}
				name := fmt.Sprintf("%s, killed after %q, then %s", layout, steps[n].name, then)
				recoverPod(t, h, p, then, name)
				if diff := cmp.Diff(before, mustObserve(t, h)); diff != "" {
					t.Fatalf("%s: something stayed (-before +after):\n%s", name, diff)
				}
			}
		}
	}
}

// newTestAddition returns an ADD of p, of which a test does single steps.
func newTestAddition(t *testing.T, h *kernel, p Pod) *addition {
	t.Helper()
	inside, err := openKernel(p.Netns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	a, err := h.newAddition(t.Context(), p, inside)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// recoverPod adds or deletes p after a kill, checks it, and deletes it.
func recoverPod(t *testing.T, h *kernel, p Pod, then, name string) {
	t.Helper()
	d := p
	switch then {
	case "ADD":
		if _, err := h.AddPod(t.Context(), p); err != nil {
			t.Errorf("%s: AddPod: %v", name, err)
		}
		if err := h.CheckPod(t.Context(), p); err != nil {
			t.Errorf("%s: CheckPod: %v", name, err)
		}
	case "DEL without addresses":
		d.Addrs = nil
	}
	if err := h.DelPod(t.Context(), d); err != nil {
		t.Errorf("%s: DelPod: %v", name, err)
	}
}

func mustObserve(t *testing.T, h *kernel) string {
	t.Helper()
	s, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// TestRetireKilled stops RetirePod after each of its steps, as a kill would. The next ADD or
// DEL must work as if nothing had happened. If there is none, sweeps delete what was left.
func TestRetireKilled(t *testing.T) {
	h, path := crashNode(t)
	inside, err := openKernel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	var d *deletion
	steps := []struct {
		name string
		do   func(context.Context, Pod) error
	}{
		{"nothing", func(context.Context, Pod) error { return nil }},
		{"group", func(ctx context.Context, p Pod) error {
			link, err := h.findLink(ctx, p.HostLink())
			if err != nil {
				return err
			}
			return h.withConn(ctx, func(c *rtnl.Conn) error { return c.SetLinkGroup(link.Index, claims.LinkGroupEnding) })
		}},
		{"rules", func(ctx context.Context, p Pod) (err error) {
			d = &deletion{h: h, pod: p}
			_, err = d.unwire(ctx, false)
			return err
		}},
		{"sandbox", func(ctx context.Context, _ Pod) error { return d.vacate(ctx) }},
		{"host", func(ctx context.Context, _ Pod) error { return d.retireHost(ctx) }},
	}
	for _, layout := range []Layout{Flat, PerPod} {
		p := Pod{ContainerID: "killed", IfName: "eth0", Netns: path, Layout: layout, MTU: 9001, Index: 3, Addrs: []PodAddr{
			{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}, {Addr: netip.MustParseAddr("2001:db8::1"), Table: 2},
		}}
		for n := range steps {
			for _, then := range []string{"ADD", "DEL", "DEL without addresses", "RETIRE", "sweeps"} {
				before, beforeInside := mustObserve(t, h), mustObserve(t, inside)
				if _, err := h.AddPod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				for _, s := range steps[:n+1] {
					if err := s.do(t.Context(), p); err != nil {
						t.Fatalf("%s: %s: %v", layout, s.name, err)
					}
				}
				if d != nil {
					d.leave()
					d = nil
				}
				name := fmt.Sprintf("%s, killed after %q, then %s", layout, steps[n].name, then)
				switch {
				case then == "RETIRE":
					if err := h.RetirePod(t.Context(), p); err != nil {
						t.Errorf("%s: RetirePod: %v", name, err)
					}
				case then != "sweeps":
					recoverPod(t, h, p, then, name)
				case n == 0:
					recoverPod(t, h, p, "DEL", name)
				}
				if err := h.Sweep(t.Context()); err != nil {
					t.Errorf("%s: Sweep: %v", name, err)
				}
				for index := range h.ending { // a minute later
					h.ending[index] = h.ending[index].Add(-endingTime)
				}
				if err := h.Sweep(t.Context()); err != nil {
					t.Errorf("%s: Sweep: %v", name, err)
				}
				if diff := cmp.Diff(before, mustObserve(t, h)); diff != "" {
					t.Fatalf("%s: something stayed (-before +after):\n%s", name, diff)
				}
				if diff := cmp.Diff(beforeInside, mustObserve(t, inside)); diff != "" && (then != "sweeps" && then != "DEL without addresses") {
					t.Fatalf("%s: something stayed in the sandbox (-before +after):\n%s", name, diff)
				}
				clearRules(t, inside)
			}
		}
	}
}

// clearRules deletes the rules that a DEL could not find, because it was killed and the next
// one does not know the addresses. They are those of a second interface, and end with the
// sandbox.
func clearRules(t *testing.T, inside *kernel) {
	t.Helper()
	s, err := inside.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Rules {
		if r.Table == 3 {
			if err := inside.Apply(t.Context(), []netstate.Change{{Op: netstate.OpDelete, Item: r}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
