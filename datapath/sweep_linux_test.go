// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

var sweepRounds = flag.Int("sweep-rounds", 40, "how many pods each address of TestSweepBesideAdd gets, one after the other")

// TestSweepBesideAdd gives each of some addresses to one pod after another, while sweeps
// follow each other without a pause. A pod ends by RetirePod, and sweeps delete its link,
// or with its sandbox, and sweeps delete its rules. A second DEL runs beside the next ADD.
// A new pod with the same address must lose nothing.
func TestSweepBesideAdd(t *testing.T) {
	isolatetest.Require(t)
	for _, layout := range []Layout{Flat, PerPod} {
		t.Run(string(layout), func(t *testing.T) {
			newNetns(t, "/run/netns/sweep-"+string(layout))
			h, err := openKernel("/run/netns/sweep-" + string(layout))
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			empty, err := h.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			agent, err := openKernel("/run/netns/sweep-" + string(layout))
			if err != nil {
				t.Fatal(err)
			}
			defer agent.Close()
			stop, swept := make(chan struct{}), make(chan struct{})
			sweeps := 0
			go func() {
				defer close(swept)
				for running := true; running; sweeps++ {
					select {
					case <-stop:
						running = false // once more
					default:
					}
					if err := agent.Sweep(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}()
			lasts := make([]Pod, addresses)
			var wg sync.WaitGroup
			for i := range lasts {
				wg.Go(func() { lasts[i] = inARow(t, h, layout, i) })
			}
			wg.Wait()
			close(stop)
			<-swept
			t.Logf("%d pods, %d sweeps", addresses**sweepRounds, sweeps)
			want := []netstate.State{empty}
			for _, p := range lasts {
				if p.ContainerID != "" {
					want = append(want, p.HostState())
				}
			}
			compareHost(t, h, netstate.Join(want...))
		})
	}
}

// inARow adds one pod after another with the i-th addresses. It returns the last one,
// which still exists.
func inARow(t *testing.T, h *kernel, layout Layout, i int) (p Pod) {
	addrs := []PodAddr{
		{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})}, {Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 100+i))},
	}
	for n := range *sweepRounds {
		old := p
		p = Pod{ContainerID: fmt.Sprintf("sweep-%d-%d", i, n), IfName: "eth0", Layout: layout, MTU: 1400, Addrs: slices.Clone(addrs)}
		for k := range p.Addrs {
			p.Addrs[k].Table = 2 + n%2 // another ENI than the previous pod has
		}
		p.Netns = "/run/netns/" + p.ContainerID
		newNetns(t, p.Netns)
		var again sync.WaitGroup
		if old.ContainerID != "" {
			if err := endPod(t, h, old, n); err != nil {
				t.Error(err)
			}
			again.Go(func() { // as a plugin does if its agent does not sweep
				if err := h.DelPod(t.Context(), old); err != nil {
					t.Errorf("second DEL: %v", err)
				}
			})
		}
		_, err := h.AddPod(t.Context(), p)
		for errors.Is(err, ErrAddressTaken) && n%2 == 0 && t.Context().Err() == nil {
			// The kernel has not ended the old sandbox yet. Until then the old pod's link,
			// which no DEL has marked, looks like that of a running pod.
			_, err = h.AddPod(t.Context(), p)
		}
		if err != nil {
			t.Errorf("AddPod: %v", err)
			return Pod{}
		}
		again.Wait()
		if err := h.CheckPod(t.Context(), p); err != nil {
			var drift *DriftError
			errors.As(err, &drift)
			t.Errorf("CheckPod: %v: %+v", err, drift)
		}
		if old.ContainerID != "" {
			dropNetns(old.Netns)
		}
	}
	return p
}

// endPod ends a pod in one of three ways.
func endPod(t *testing.T, h *kernel, p Pod, way int) error {
	if way%3 > 0 {
		return h.RetirePod(t.Context(), p)
	}
	dropNetns(p.Netns)
	// Every other time the new pod is added while the old link still exists.
	for way%2 > 0 {
		link, err := h.findLink(t.Context(), p.HostLink())
		if err != nil || link.Index == 0 {
			return err
		}
	}
	return nil
}

// compareHost wants the namespace to be as in want, except for settings and for the peers
// of links, which Observe does not see.
func compareHost(t *testing.T, h *kernel, want netstate.State) {
	t.Helper()
	have, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want.Sysctls, have.Sysctls = nil, nil
	for i := range want.Links {
		want.Links[i].Peer = ""
	}
	if diff := cmp.Diff(want.String(), have.String()); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestSweepBranchRules checks that a sweep leaves the rules of pods on branch ENIs that have
// routes, which name links, and deletes those without.
func TestSweepBranchRules(t *testing.T) {
	isolatetest.Require(t)
	const path = "/run/netns/sweep-branch"
	newNetns(t, path)
	h, err := openKernel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	rule := netstate.Rule{Priority: claims.PriorityBranch, IIF: "vlan0", Table: 105, Protocol: claims.RuleProtocol}
	orphan := rule
	orphan.IIF, orphan.Table = "vlan1", 106
	newNetns(t, path+"-pod")
	onLink := Pod{ContainerID: "c", IfName: "eth0", Netns: path + "-pod", Addrs: []PodAddr{{Addr: netip.MustParseAddr("10.0.0.1")}}, Mode: Mode{Bridge: &Bridge{Name: rule.IIF}}}
	if _, err := h.AddPod(t.Context(), onLink); err != nil {
		t.Fatal(err)
	}
	if err := h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: rule}, {Op: netstate.OpAdd, Item: orphan}}); err != nil {
		t.Fatal(err)
	}
	if err := h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	have, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(have.Rules, rule) || slices.Contains(have.Rules, orphan) {
		t.Errorf("rules after the sweep:\n%s\nwant %v and not %v", netstate.State{Rules: have.Rules}, rule, orphan)
	}
}
