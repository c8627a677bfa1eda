// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// faultTest is a world with two pods, into which a test injects a fault.
type faultTest struct {
	*batches
	a, b *pod
	// lastStatus is the last status of the agent before freeze killed it.
	lastStatus *ipamd.Status
}

// freeze kills the agent and stores its last status for further observations.
func (l *faultTest) freeze(t *testing.T) {
	t.Helper()
	s, err := l.w.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.lastStatus = &s
	l.w.agent.kill()
}

func (l *faultTest) observe(ctx context.Context) (observation, error) {
	if l.lastStatus != nil {
		return l.w.compare(ctx, *l.lastStatus, "")
	}
	return l.w.observe(ctx)
}

func newFaultTest(t *testing.T, n node) *faultTest {
	t.Helper()
	isolatetest.Require(t)
	o := options{layout: "flat", workers: 1, programs: os.Getenv(programsEnv), node: n}
	l := &faultTest{batches: &batches{o: o, tally: newTally(o), progress: t.Output()}}
	if err := l.world(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close(t) })
	l.a, l.b = l.pod(t, "a"), l.pod(t, "b")
	return l
}

// close closes the world. It may be called again.
func (l *faultTest) close(t *testing.T) {
	t.Helper()
	if l.w == nil {
		return
	}
	if err := l.w.close(); err != nil {
		t.Error(err)
	}
	l.w = nil
}

func (l *faultTest) pod(t *testing.T, name string) *pod {
	t.Helper()
	p, err := l.w.newPod(name, rand.New(rand.NewPCG(uint64(name[0]), 0)))
	if err != nil {
		t.Fatal(err)
	}
	var last error
	waitFor(t, "ADD", func() bool {
		last = p.add(t.Context(), nil)
		return last == nil
	}, &last)
	return p
}

func waitFor(t *testing.T, what string, done func() bool, last *error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !done() {
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			t.Fatalf("%s: %v", what, errors.Join(ctx.Err(), *last))
		}
	}
}

// ec2 calls EC2 as another program.
func (l *faultTest) ec2(t *testing.T, action string, parameters ...string) {
	t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	l.w.cloud.EC2Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", action, rec.Code, rec.Body)
	}
}

// TestInjectedFaults injects one fault at a time into a real node, and checks that
// the right invariant is violated.
func TestInjectedFaults(t *testing.T) {
	rows := []struct {
		want   violationKind
		inject func(*testing.T, *faultTest)
	}{
		{released, func(t *testing.T, l *faultTest) {
			l.ec2(t, "UnassignPrivateIpAddresses", "NetworkInterfaceId", l.owner(t), "PrivateIpAddress.1", l.a.addr.String())
		}},
		{twoPods, func(t *testing.T, l *faultTest) {
			h, err := datapath.Open(l.b.ns.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			both := netstate.State{Addresses: []netstate.Address{{Link: ifName, Prefix: netip.PrefixFrom(l.a.addr, 32)}}}
			if err := h.Apply(t.Context(), netstate.Diff(netstate.State{}, both)); err != nil {
				t.Fatal(err)
			}
		}},
		{eniLeaked, func(t *testing.T, l *faultTest) {
			l.ec2(t, "CreateNetworkInterface", "SubnetId", l.w.cloud.Subnets()[0].ID,
				"TagSpecification.1.ResourceType", "network-interface", "TagSpecification.1.Tag.1.Key", eni.TagOwner, "TagSpecification.1.Tag.1.Value", "vpcnet")
		}},
		{drifted, func(t *testing.T, l *faultTest) {
			l.freeze(t)
			gone := netstate.State{Routes: []netstate.Route{l.route(t)}}
			if err := l.w.kernel.Apply(t.Context(), netstate.Diff(gone, netstate.State{})); err != nil {
				t.Fatal(err)
			}
		}},
		{leftover, func(t *testing.T, l *faultTest) {
			err := l.w.ns.Do(func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eni0123456789a"}, PeerName: "other"})
			})
			if err != nil {
				t.Fatal(err)
			}
		}},
		{held, func(t *testing.T, l *faultTest) {
			l.freeze(t) // because a running agent would release the address
			if err := l.a.remove(); err != nil {
				t.Fatal(err)
			}
		}},
		{starved, func(t *testing.T, l *faultTest) {
			if err := l.a.remove(); err != nil {
				t.Fatal(err)
			}
			l.w.mu.Lock()
			l.w.ended[l.a.link] = time.Now().Add(-time.Minute)
			l.w.mu.Unlock()
			l.w.checkRefusal(t.Context(), &types.Error{Msg: "eni-limit: none is free"})
		}},
		{unreachable, func(_ *testing.T, l *faultTest) { l.a.stopEcho(); l.a.stopEcho = nil }},
		{notReady, func(_ *testing.T, l *faultTest) { l.w.agent.kill() }},
		{agentEnded, func(t *testing.T, l *faultTest) {
			if err := l.w.agent.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the agent's end", l.w.hasViolations, new(error))
		}},
		{notRepaired, func(t *testing.T, l *faultTest) {
			l.w.agent.kill()
			if err := l.w.flushRuleset(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			l.w.waitRepaired(ctx)
		}},
		{delRefused, func(t *testing.T, l *faultTest) {
			if err := os.Rename(l.w.conflist(), l.w.conflist()+".away"); err != nil {
				t.Fatal(err)
			}
			(&worker{w: l.w}).del(l.a)
		}},
	}
	covered := map[violationKind]bool{
		forgotten: true, // needs a wrong agent; TestInvariants covers it
	}
	for _, row := range rows {
		covered[row.want] = true
		t.Run(string(row.want), func(t *testing.T) {
			l := newFaultTest(t, theNode)
			if _, found := l.waitClean(t.Context(), grace); len(found) > 0 {
				t.Fatalf("violations before the fault: %v", found)
			}
			row.inject(t, l)
			p, err := l.observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found := slices.Concat(l.w.takeViolations(), p.violations(0))
			if !slices.ContainsFunc(found, func(v violation) bool { return v.Kind == row.want }) {
				t.Errorf("found %v, want %s", found, row.want)
			}
		})
	}
	for _, b := range violationKinds() {
		if !covered[b] {
			t.Errorf("no fault for %s", b)
		}
	}
}

// owner returns the ENI that has the address of pod a.
func (l *faultTest) owner(t *testing.T) string {
	t.Helper()
	for _, e := range l.w.enis() {
		if owns(e.Addrs, l.a.addr) {
			return e.ID
		}
	}
	t.Fatalf("no ENI has %v", l.a.addr)
	return ""
}

// route returns the route to pod a.
func (l *faultTest) route(t *testing.T) netstate.Route {
	t.Helper()
	state, err := l.w.kernel.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range state.Routes {
		if r.Link == l.a.link {
			return r
		}
	}
	t.Fatalf("no route leads to %s", l.a.link)
	return netstate.Route{}
}
