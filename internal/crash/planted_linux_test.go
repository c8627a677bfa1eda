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
)

// plant is a world with two pods, in which a test breaks something.
type plant struct {
	*batches
	a, b *pod
	// said is what the agent said last, before it was killed.
	said *status
}

// freeze ends the agent and lets its last word stand.
func (l *plant) freeze(t *testing.T) {
	t.Helper()
	s, err := l.w.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.said = &s
	l.w.agent.kill()
}

func (l *plant) picture(ctx context.Context) (picture, error) {
	if l.said != nil {
		return l.w.compare(ctx, *l.said, "")
	}
	return l.w.picture(ctx)
}

func plantOn(t *testing.T, n node) *plant {
	t.Helper()
	isolatetest.Require(t)
	o := options{layout: "flat", workers: 1, programs: os.Getenv(programsEnv), node: n}
	l := &plant{batches: &batches{o: o, tally: newTally(o), progress: t.Output()}}
	if err := l.world(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close(t) })
	l.a, l.b = l.pod(t, "a"), l.pod(t, "b")
	return l
}

// close may be called again.
func (l *plant) close(t *testing.T) {
	t.Helper()
	if l.w == nil {
		return
	}
	if err := l.w.close(); err != nil {
		t.Error(err)
	}
	l.w = nil
}

func (l *plant) pod(t *testing.T, name string) *pod {
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

// ec2 makes a call that is not the agent's.
func (l *plant) ec2(t *testing.T, action string, parameters ...string) {
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

// TestPlanted breaks a real node in one way after the other, and wants the
// invariant to fail that is about it.
func TestPlanted(t *testing.T) {
	rows := []struct {
		want  breach
		plant func(*testing.T, *plant)
	}{
		{released, func(t *testing.T, l *plant) {
			l.ec2(t, "UnassignPrivateIpAddresses", "NetworkInterfaceId", l.owner(t), "PrivateIpAddress.1", l.a.addr.String())
		}},
		{twoPods, func(t *testing.T, l *plant) {
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
		{eniLeaked, func(t *testing.T, l *plant) {
			l.ec2(t, "CreateNetworkInterface", "SubnetId", l.w.cloud.Subnets()[0].ID,
				"TagSpecification.1.ResourceType", "network-interface", "TagSpecification.1.Tag.1.Key", eni.TagOwner, "TagSpecification.1.Tag.1.Value", "vpcnet")
		}},
		{drifted, func(t *testing.T, l *plant) {
			l.freeze(t)
			gone := netstate.State{Routes: []netstate.Route{l.route(t)}}
			if err := l.w.kernel.Apply(t.Context(), netstate.Diff(gone, netstate.State{})); err != nil {
				t.Fatal(err)
			}
		}},
		{leftover, func(t *testing.T, l *plant) {
			err := l.w.ns.Do(func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eni0123456789a"}, PeerName: "other"})
			})
			if err != nil {
				t.Fatal(err)
			}
		}},
		{held, func(t *testing.T, l *plant) {
			l.freeze(t) // or it would collect the address
			if err := l.a.remove(); err != nil {
				t.Fatal(err)
			}
		}},
		{starved, func(t *testing.T, l *plant) {
			if err := l.a.remove(); err != nil {
				t.Fatal(err)
			}
			l.w.mu.Lock()
			l.w.ended[l.a.link] = time.Now().Add(-time.Minute)
			l.w.mu.Unlock()
			l.w.refused(t.Context(), &types.Error{Msg: "eni-limit: none is free"})
		}},
		{unreachable, func(_ *testing.T, l *plant) { l.a.stopEcho(); l.a.stopEcho = nil }},
		{notReady, func(_ *testing.T, l *plant) { l.w.agent.kill() }},
		{agentEnded, func(t *testing.T, l *plant) {
			if err := l.w.agent.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the agent's end", l.w.harmed, new(error))
		}},
		{notRepaired, func(t *testing.T, l *plant) {
			l.w.agent.kill()
			if err := l.w.flushRuleset(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			l.w.mended(ctx)
		}},
		{delRefused, func(t *testing.T, l *plant) {
			if err := os.Rename(l.w.conflist(), l.w.conflist()+".away"); err != nil {
				t.Fatal(err)
			}
			(&worker{w: l.w}).del(l.a)
		}},
	}
	covered := map[breach]bool{
		forgotten: true, // no honest agent forgets; TestInvariants has it
	}
	for _, row := range rows {
		covered[row.want] = true
		t.Run(string(row.want), func(t *testing.T) {
			l := plantOn(t, theNode)
			if _, found := l.settle(t.Context(), grace); len(found) > 0 {
				t.Fatalf("before anything is broken: %v", found)
			}
			row.plant(t, l)
			p, err := l.picture(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found := slices.Concat(l.w.takeHarm(), p.violations(0))
			if !slices.ContainsFunc(found, func(v violation) bool { return v.Kind == row.want }) {
				t.Errorf("found %v, want %s", found, row.want)
			}
		})
	}
	for _, b := range breaches() {
		if !covered[b] {
			t.Errorf("%s is not planted", b)
		}
	}
}

// owner is the ENI that has the address of pod a.
func (l *plant) owner(t *testing.T) string {
	t.Helper()
	for _, e := range l.w.enis() {
		if owns(e.Addrs, l.a.addr) {
			return e.ID
		}
	}
	t.Fatalf("no ENI has %v", l.a.addr)
	return ""
}

// route is that to pod a.
func (l *plant) route(t *testing.T) netstate.Route {
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
