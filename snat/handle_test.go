// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

// namespace makes an empty namespace and a handle in it.
func namespace(t testing.TB) (*fabric.Netns, *snat.Handle) {
	t.Helper()
	isolatetest.Require(t)
	ns, err := fabric.CreateNetns("/run/netns/node")
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, ns)
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns, h
}

func open(t testing.TB, ns *fabric.Netns) *snat.Handle {
	t.Helper()
	h, err := snat.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// apply applies the rules of c and checks whether that changed the table.
func apply(t *testing.T, h *snat.Handle, c snat.Config, wantChanged bool) {
	t.Helper()
	changed, err := h.Apply(t.Context(), ruleset(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChanged {
		t.Errorf("changed = %v, want %v", changed, wantChanged)
	}
}

func observe(t *testing.T, h *snat.Handle) snat.Ruleset {
	t.Helper()
	r, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tool runs a program in the namespace and returns its output. Without the program it
// skips the test.
func tool(t *testing.T, ns *fabric.Netns, stdin, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs the program %s: %v", name, err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdin, &out)
	}
	return out.String()
}

// TestApply applies each configuration, reads it back, and removes it.
func TestApply(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			_, h := namespace(t)
			want := ruleset(t, c)
			apply(t, h, c, want.String() != "")
			if diff := cmp.Diff(want.String(), observe(t, h).String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			apply(t, h, c, false)
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Errorf("second removal: %v", err)
			}
			if got := observe(t, h).String(); got != "" {
				t.Errorf("after removal: %s", got)
			}
		})
	}
}

// words splits text into words: versions of nft break lines differently.
func words(text string) []string { return strings.Fields(text) }

// TestNftAgrees compares the text with the nft program, in both directions.
func TestNftAgrees(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			ns, h := namespace(t)
			want := ruleset(t, c)
			if want.String() == "" {
				return
			}
			tool(t, ns, want.String(), "nft", "-f", "-")
			if diff := cmp.Diff(want.String(), observe(t, h).String()); diff != "" {
				t.Errorf("loaded by nft (-want +got):\n%s", diff)
			}
			apply(t, h, c, false)
			listed := tool(t, ns, "", "nft", "-s", "list", "table", "inet", "vpcnet-snat")
			if diff := cmp.Diff(words(want.String()), words(listed)); diff != "" {
				t.Errorf("listed by nft (-want +got):\n%s", diff)
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			apply(t, h, c, true)
			listed = tool(t, ns, "", "nft", "-s", "list", "table", "inet", "vpcnet-snat")
			if diff := cmp.Diff(words(want.String()), words(listed)); diff != "" {
				t.Errorf("applied by the handle, listed by nft (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManyPrefixes excludes more prefixes than fit into one part of a transaction.
func TestManyPrefixes(t *testing.T) {
	_, h := namespace(t)
	c := base(func(c *snat.Config) {
		for i := range 5000 {
			c.Excluded = append(c.Excluded, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24))
		}
	})
	apply(t, h, c, true)
	apply(t, h, c, false)
	if diff := cmp.Diff(ruleset(t, c).String(), observe(t, h).String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestConcurrentHandles applies two rulesets repeatedly from two handles, while a third
// reads and removes the table: it reads one of the two rulesets or none.
func TestConcurrentHandles(t *testing.T) {
	ns, reader := namespace(t)
	want := []snat.Ruleset{ruleset(t, configs["default"]), ruleset(t, configs["excluded"])}
	var group sync.WaitGroup
	for _, r := range want {
		h := open(t, ns)
		group.Go(func() {
			for range 50 {
				if _, err := h.Apply(t.Context(), r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	whole := func() bool {
		got := observe(t, reader)
		ok := got.Equal(want[0]) || got.Equal(want[1]) || got.Equal(snat.Ruleset{})
		if !ok {
			t.Errorf("the table is none of the rulesets:\n%s", got)
		}
		return ok
	}
	for range 200 {
		if !whole() {
			break
		}
		if err := reader.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	whole()
}

// TestClosedHandle has calls on a closed handle, with a cancelled context, and on a
// missing namespace.
func TestClosedHandle(t *testing.T) {
	_, h := namespace(t)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Observe(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Observe after Close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Apply(ctx, snat.Ruleset{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply with a cancelled context: %v", err)
	}
	if _, err := snat.Open("/run/netns/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a missing namespace: %v", err)
	}
}

// TestOwnNamespace opens the namespace of the process, with an empty path.
func TestOwnNamespace(t *testing.T) {
	isolatetest.Require(t)
	h, err := snat.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	apply(t, h, base(nil), true)
	if err := h.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
