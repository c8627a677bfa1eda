// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// namespace makes a namespace with a handle on it.
func namespace(t testing.TB) (*fabric.Netns, *policy.Handle) {
	t.Helper()
	isolatetest.Require(t)
	ns, err := fabric.CreateNetns("/run/netns/policy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns, handle(t, ns)
}

func handle(t testing.TB, ns *fabric.Netns) *policy.Handle {
	t.Helper()
	h, err := policy.Open(ns.Path())
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

// script runs a script of the nft program and returns its error.
func script(t testing.TB, ns *fabric.Netns, text string) error {
	t.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
	err := ns.Start(cmd)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("needs the program nft: %v", err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, &out)
	}
	return nil
}

func apply(t testing.TB, h *policy.Handle, s policy.State, want bool) {
	t.Helper()
	changed, err := h.Apply(t.Context(), s)
	if err != nil || changed != want {
		t.Fatalf("Apply: changed %t, %v, want %t", changed, err, want)
	}
}

// holds checks that the kernel has a state.
func holds(t testing.TB, h *policy.Handle, want policy.State) {
	t.Helper()
	got, ours, err := h.Observe(t.Context())
	if err != nil || !ours || policy.Diff(got, want) != "" {
		t.Fatalf("Observe: ours %t, %v, differs by\n%s", ours, err, policy.Diff(got, want))
	}
}

// TestApply applies each state after each other one, with and without an owner, and takes a
// table over from a handle that is closed.
func TestApply(t *testing.T) {
	all := examples(t)
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%t", plain), func(t *testing.T) {
			ns, h := namespace(t)
			if plain {
				policy.Plain(h)
			}
			if _, ours, err := h.Observe(t.Context()); ours || err != nil {
				t.Fatalf("an absent table: ours %t, %v", ours, err)
			}
			for from, a := range all {
				for to, b := range all {
					if _, err := h.Apply(t.Context(), a); err != nil {
						t.Fatal(err)
					}
					holds(t, h, a)
					apply(t, h, b, from != to)
					holds(t, h, b)
				}
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			next := handle(t, ns)
			if _, err := next.Apply(t.Context(), all["two"]); err != nil {
				t.Fatal(err)
			}
			holds(t, next, all["two"])
			apply(t, next, all["two"], false)
			apply(t, next, all["deny"], true)
			holds(t, next, all["deny"])
			if err := next.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, ours, err := next.Observe(t.Context()); ours || err != nil {
				t.Errorf("a removed table: ours %t, %v", ours, err)
			}
			if err := next.Remove(t.Context()); err != nil {
				t.Errorf("Remove of an absent table: %v", err)
			}
			apply(t, next, all["empty"], true)
		})
	}
}

// TestErrors uses handles that are closed, on no namespace, and for states without meaning.
func TestErrors(t *testing.T) {
	_, h := namespace(t)
	if _, err := h.Apply(t.Context(), policy.State{Pods: map[netip.Addr]string{addr("10.0.0.1"): "none"}}); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("Apply of a state without its class: %v, want %v", err, policy.ErrInvalid)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context(), policy.State{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Apply by a closed handle: %v, want %v", err, os.ErrClosed)
	}
	if _, err := policy.Open("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of no namespace: %v, want %v", err, os.ErrNotExist)
	}
}

// watch runs Watch until the end of the test. It returns the repairs.
func watch(t *testing.T, h *policy.Handle) chan policy.Repair {
	t.Helper()
	repairs := make(chan policy.Repair, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- h.Watch(ctx, policy.WatchConfig{Repaired: func(r policy.Repair) { repairs <- r }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v, want %v", err, context.Canceled)
		}
	})
	return repairs
}

// damages are changes by another program.
var damages = []string{
	"flush ruleset", "delete table inet vpcnet-policy", "flush chain inet vpcnet-policy forward",
	"insert rule inet vpcnet-policy forward accept", "flush map inet vpcnet-policy in4",
	"add element inet vpcnet-policy in4-team/web { 0.0.0.0-9.255.255.255 . 0-255 . 0-65535 }",
	"add chain inet vpcnet-policy forward { policy drop; }",
	"add chain inet vpcnet-policy extra { type filter hook input priority 0; }",
}

// TestOwner has another program change the table while the handle owns it: it cannot.
func TestOwner(t *testing.T) {
	ns, h := namespace(t)
	s := examples(t)["two"]
	apply(t, h, s, true)
	if policy.IsPlain(h) {
		t.Log("this kernel has no owners of tables: TestWatch has what remains")
		return
	}
	for _, damage := range damages {
		if err := script(t, ns, damage); err == nil && damage != "flush ruleset" {
			t.Errorf("another program can %s", damage)
		}
		holds(t, h, s)
	}
}

// TestWatch has another program change a table without an owner: Watch repairs it. Applying
// another state meanwhile is no change by another program.
func TestWatch(t *testing.T) {
	ns, h := namespace(t)
	policy.Plain(h)
	all := examples(t)
	repairs := watch(t, h)
	for i, damage := range damages {
		s := all["two"]
		apply(t, h, s, true)
		if err := script(t, ns, damage); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-repairs:
			if r.Err != nil || r.Changes == "" || len(r.By) != 1 || !strings.HasPrefix(r.By[0], "nft (pid ") {
				t.Errorf("%s: repair %+v", damage, r)
			}
			t.Logf("%s: repaired in %v", damage, r.Took)
		case <-time.After(60 * time.Second):
			t.Fatalf("%s: not repaired", damage)
		}
		holds(t, h, s)
		apply(t, h, all["deny"], true)
		holds(t, h, all["deny"])
		if i == 0 {
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case r := <-repairs:
		t.Errorf("a further repair: %+v", r)
	default:
	}
}

// TestMany applies 100,000 boxes of 1,000 classes in one transaction, and then adds a pod and
// changes a class.
func TestMany(t *testing.T) {
	_, h := namespace(t)
	s := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}}
	for i := range 1000 {
		rule := policy.Rule{Ports: []policy.Ports{{Protocol: policy.TCP, First: 80}}}
		for j := range 100 {
			rule.Peers = append(rule.Peers, policy.Block{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j), 2}), 32)})
		}
		name := fmt.Sprint("class-", i)
		s.Classes[name] = compiled(t, policy.Class{Ingress: allow(rule)})
		s.Pods[netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})] = name
	}
	start := time.Now()
	changed, err := h.Apply(t.Context(), s)
	if err != nil && strings.Contains(err.Error(), "net.core.wmem_max") {
		t.Logf("the kernel limits the transactions of ordinary users: %v", err)
		return
	}
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	t.Logf("100,000 boxes in %v", time.Since(start))
	holds(t, h, s)
	start = time.Now()
	s.Pods[addr("10.201.0.1")] = "class-7"
	apply(t, h, s, true)
	t.Logf("one more pod in %v", time.Since(start))
	start = time.Now()
	s.Classes["class-8"] = compiled(t, policy.Class{Ingress: allow(), Egress: allow()})
	apply(t, h, s, true)
	t.Logf("another class in %v", time.Since(start))
	holds(t, h, s)
}
