// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// validObservation returns an observation of two pods without a violation.
func validObservation() observation {
	a, b := addr("10.0.0.11"), addr("10.0.0.12")
	return observation{
		Instance: "i-1",
		Pods: []podState{
			{Name: "a", Addr: a, Link: "enia", Sandbox: []netip.Addr{a}},
			{Name: "b", Addr: b, Link: "enib", Sandbox: []netip.Addr{b}},
		},
		Routes: []podRoute{{a, "enia"}, {b, "enib"}},
		Links:  []string{"enia", "enib"},
		ENIs: []eniState{
			{ID: "eni-0", Instance: "i-1", Status: "in-use", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/32")}},
			{ID: "eni-1", ByAgent: true, Instance: "i-1", Status: "in-use", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.12/32")}},
			{ID: "eni-2", ByAgent: true, Status: "available", Idle: time.Second},
			{ID: "eni-3", Status: "available", Idle: time.Hour}, // of another program
		},
		Agent: agentState{
			Allocations: []allocation{{Addr: b, Link: "enib"}, {Addr: addr("10.0.0.13"), Link: "enic", Ended: time.Second}},
			Quarantined: []netip.Addr{a},
		},
	}
}

// TestInvariants changes one part of a valid observation at a time, and checks that
// exactly the invariant for that part is violated.
func TestInvariants(t *testing.T) {
	if found := validObservation().violations(grace); len(found) > 0 {
		t.Fatalf("the valid observation has violations %v", found)
	}
	rows := []struct {
		name   string
		want   violationKind
		change func(*observation)
	}{
		{"two results", twoPods, func(p *observation) { p.Pods = append(p.Pods, podState{Name: "c", Addr: p.Pods[0].Addr, Link: "enia"}) }},
		{"two sandboxes", twoPods, func(p *observation) { p.Pods[1].Sandbox = append(p.Pods[1].Sandbox, p.Pods[0].Addr) }},
		{"two routes", twoPods, func(p *observation) {
			p.Links = append(p.Links, "enic")
			p.Pods = append(p.Pods, podState{Name: "c", Addr: addr("10.0.0.11"), Link: "enic"})
			p.Routes = append(p.Routes, podRoute{addr("10.0.0.11"), "enic"})
		}},
		{"two allocations", twoPods, func(p *observation) {
			p.Agent.Allocations = append(p.Agent.Allocations, allocation{Addr: p.Pods[1].Addr, Link: "enia"})
		}},
		{"two ENIs", twoPods, func(p *observation) { p.ENIs[1].Addrs = append(p.ENIs[1].Addrs, p.ENIs[0].Addrs...) }},
		{"unassigned", released, func(p *observation) { p.ENIs[0].Addrs = nil }},
		{"on another instance", released, func(p *observation) { p.ENIs[0].Instance = "i-2" }},
		{"detached for too long", eniLeaked, func(p *observation) { p.ENIs[2].Idle = grace + 1 }},
		{"on another instance", eniLeaked, func(p *observation) { p.ENIs[2].Instance = "i-2" }},
		{"a change", drifted, func(p *observation) { p.Drift = []string{"ip link set dev enia up"} }},
		{"a link", leftover, func(p *observation) { p.Links = append(p.Links, "enix") }},
		{"a route", leftover, func(p *observation) { p.Routes = append(p.Routes, podRoute{addr("10.0.0.19"), "enia"}) }},
		{"not in the status", forgotten, func(p *observation) { p.Agent.Quarantined = nil }},
		{"with another pod", forgotten, func(p *observation) { p.Agent.Allocations[0].Link = "eniy" }},
		{"for long", held, func(p *observation) { p.Agent.Allocations[1].Ended = grace + 1 }},
		{"no answer", unreachable, func(p *observation) { p.Pods[0].Unreachable = []string{"no answer"} }},
		{"no status", notReady, func(p *observation) { p.Agent.Problem = "connection refused" }},
	}
	covered := map[violationKind]bool{
		// These are not functions of an observation; TestInjectedFaults covers them.
		agentEnded: true, notRepaired: true, delRefused: true, starved: true,
	}
	for _, row := range rows {
		covered[row.want] = true
		p := validObservation()
		row.change(&p)
		found := p.violations(grace)
		if len(found) == 0 || slices.ContainsFunc(found, func(v violation) bool { return v.Kind != row.want }) {
			t.Errorf("%s: violations = %v, want %s", row.name, found, row.want)
		}
	}
	for _, b := range violationKinds() {
		if !covered[b] {
			t.Errorf("%s has no row", b)
		}
	}
}

// TestNoGrace checks that without grace nothing may be left.
func TestNoGrace(t *testing.T) {
	var kinds []violationKind
	for _, v := range validObservation().violations(0) {
		kinds = append(kinds, v.Kind)
	}
	if !slices.Equal(kinds, []violationKind{eniLeaked, held}) {
		t.Errorf("without grace: %v, want eni-leaked and held", kinds)
	}
}

func TestMoments(t *testing.T) {
	pods := validObservation().Pods
	if v := takenFrom(pods, []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}, "unassigned"); v != nil {
		t.Errorf("addresses of no pod were unassigned: %v, want no violation", v)
	}
	if v := takenFrom(pods, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28")}, "unassigned"); len(v) != 2 || v[0].Kind != released {
		t.Errorf("the prefix of two pods was unassigned: %v, want two violations", v)
	}
	if v := givenTwice(pods, podState{Name: "c", Addr: addr("10.0.0.13")}); v != nil {
		t.Errorf("a free address was allocated: %v, want no violation", v)
	}
	if v := givenTwice(pods, podState{Name: "c", Addr: addr("10.0.0.12")}); len(v) != 1 || v[0].Kind != twoPods {
		t.Errorf("the address of b was allocated to c: %v, want a violation", v)
	}
}

func TestStarved(t *testing.T) {
	a := validObservation().Agent
	if v := starvedBy("eni-limit", a); v != nil {
		t.Errorf("the pod has just ended: %v, want no violation", v)
	}
	a.Allocations[1].Ended = collectWithin + 1
	if v := starvedBy("agent-starting", a); v != nil {
		t.Errorf("another reason: %v, want no violation", v)
	}
	if v := starvedBy("eni-limit", a); len(v) != 1 || v[0].Kind != starved {
		t.Errorf("starvedBy = %v, want a violation", v)
	}
}
