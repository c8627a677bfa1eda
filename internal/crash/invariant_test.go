// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sound is a picture of two pods in which everything holds.
func sound() picture {
	a, b := addr("10.0.0.11"), addr("10.0.0.12")
	return picture{
		Instance: "i-1",
		Pods: []podPicture{
			{Name: "a", Addr: a, Link: "enia", Sandbox: []netip.Addr{a}},
			{Name: "b", Addr: b, Link: "enib", Sandbox: []netip.Addr{b}},
		},
		Routes: []podRoute{{a, "enia"}, {b, "enib"}},
		Links:  []string{"enia", "enib"},
		ENIs: []eniPicture{
			{ID: "eni-0", Instance: "i-1", Status: "in-use", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/32")}},
			{ID: "eni-1", Ours: true, Instance: "i-1", Status: "in-use", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.12/32")}},
			{ID: "eni-2", Ours: true, Status: "available", Idle: time.Second},
			{ID: "eni-3", Status: "available", Idle: time.Hour}, // another's
		},
		Agent: agentPicture{
			Allocations: []allocation{{Addr: b, Link: "enib"}, {Addr: addr("10.0.0.13"), Link: "enic", Ended: time.Second}},
			Quarantined: []netip.Addr{a},
		},
	}
}

// TestInvariants holds that each invariant of the picture fails when one witness
// says otherwise, and that no other one does.
func TestInvariants(t *testing.T) {
	if found := sound().violations(grace); len(found) > 0 {
		t.Fatalf("the sound picture has %v", found)
	}
	rows := []struct {
		name  string
		want  breach
		spoil func(*picture)
	}{
		{"two results", twoPods, func(p *picture) { p.Pods = append(p.Pods, podPicture{Name: "c", Addr: p.Pods[0].Addr, Link: "enia"}) }},
		{"two sandboxes", twoPods, func(p *picture) { p.Pods[1].Sandbox = append(p.Pods[1].Sandbox, p.Pods[0].Addr) }},
		{"two routes", twoPods, func(p *picture) {
			p.Links = append(p.Links, "enic")
			p.Pods = append(p.Pods, podPicture{Name: "c", Addr: addr("10.0.0.11"), Link: "enic"})
			p.Routes = append(p.Routes, podRoute{addr("10.0.0.11"), "enic"})
		}},
		{"two allocations", twoPods, func(p *picture) {
			p.Agent.Allocations = append(p.Agent.Allocations, allocation{Addr: p.Pods[1].Addr, Link: "enia"})
		}},
		{"two ENIs", twoPods, func(p *picture) { p.ENIs[1].Addrs = append(p.ENIs[1].Addrs, p.ENIs[0].Addrs...) }},
		{"unassigned", released, func(p *picture) { p.ENIs[0].Addrs = nil }},
		{"on another instance", released, func(p *picture) { p.ENIs[0].Instance = "i-2" }},
		{"idle for long", eniLeaked, func(p *picture) { p.ENIs[2].Idle = grace + 1 }},
		{"on another instance", eniLeaked, func(p *picture) { p.ENIs[2].Instance = "i-2" }},
		{"a change", drifted, func(p *picture) { p.Drift = []string{"ip link set dev enia up"} }},
		{"a link", leftover, func(p *picture) { p.Links = append(p.Links, "enix") }},
		{"a route", leftover, func(p *picture) { p.Routes = append(p.Routes, podRoute{addr("10.0.0.19"), "enia"}) }},
		{"not in the status", forgotten, func(p *picture) { p.Agent.Quarantined = nil }},
		{"with another pod", forgotten, func(p *picture) { p.Agent.Allocations[0].Link = "eniy" }},
		{"for long", held, func(p *picture) { p.Agent.Allocations[1].Ended = grace + 1 }},
		{"no answer", unreachable, func(p *picture) { p.Pods[0].Silent = []string{"no answer"} }},
		{"no status", notReady, func(p *picture) { p.Agent.Trouble = "connection refused" }},
	}
	covered := map[breach]bool{
		// These are no matter of a picture; TestPlanted has them.
		agentEnded: true, notRepaired: true, delRefused: true, starved: true,
	}
	for _, row := range rows {
		covered[row.want] = true
		p := sound()
		row.spoil(&p)
		found := p.violations(grace)
		if len(found) == 0 || slices.ContainsFunc(found, func(v violation) bool { return v.Kind != row.want }) {
			t.Errorf("%s: violations = %v, want %s", row.name, found, row.want)
		}
	}
	for _, b := range breaches() {
		if !covered[b] {
			t.Errorf("%s has no row", b)
		}
	}
}

// TestNoGrace holds that at the end nothing may be left.
func TestNoGrace(t *testing.T) {
	var kinds []breach
	for _, v := range sound().violations(0) {
		kinds = append(kinds, v.Kind)
	}
	if !slices.Equal(kinds, []breach{eniLeaked, held}) {
		t.Errorf("without grace: %v", kinds)
	}
}

func TestMoments(t *testing.T) {
	pods := sound().Pods
	if v := takenFrom(pods, []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}, "unassigned"); v != nil {
		t.Errorf("addresses of no pod are taken: %v", v)
	}
	if v := takenFrom(pods, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28")}, "unassigned"); len(v) != 2 || v[0].Kind != released {
		t.Errorf("the prefix of two pods is taken: %v", v)
	}
	if v := givenTwice(pods, podPicture{Name: "c", Addr: addr("10.0.0.13")}); v != nil {
		t.Errorf("a free address is given: %v", v)
	}
	if v := givenTwice(pods, podPicture{Name: "c", Addr: addr("10.0.0.12")}); len(v) != 1 || v[0].Kind != twoPods {
		t.Errorf("the address of b is given to c: %v", v)
	}
}

func TestStarved(t *testing.T) {
	a := sound().Agent
	if v := starvedBy("eni-limit", a); v != nil {
		t.Errorf("pods that ended just now: %v", v)
	}
	a.Allocations[1].Ended = collectWithin + 1
	if v := starvedBy("agent-starting", a); v != nil {
		t.Errorf("another reason: %v", v)
	}
	if v := starvedBy("eni-limit", a); len(v) != 1 || v[0].Kind != starved {
		t.Errorf("starvedBy = %v", v)
	}
}

func TestQuarantined(t *testing.T) {
	tree := map[string]any{
		"allocations":          []any{map[string]any{"addr": "10.0.0.1"}},
		"quarantinedAddresses": []any{"10.0.0.2", map[string]any{"addr": "10.0.0.3", "why": "a route leads there"}},
	}
	got := quarantined(tree, false)
	slices.SortFunc(got, netip.Addr.Compare)
	if !slices.Equal(got, []netip.Addr{addr("10.0.0.2"), addr("10.0.0.3")}) {
		t.Errorf("quarantined = %v", got)
	}
}
