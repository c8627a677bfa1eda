// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// grace is how long an ENI may be detached, and how long a deleted pod may hold an
// address: the agent sweeps lost ENIs 20 s after its start, and checks for ended pods every 20 s.
const grace = 75 * time.Second

// violations returns the invariants that p violates. grace is 0 at the end of the
// loop, after a restart of the agent.
func (p observation) violations(grace time.Duration) []violation {
	var all []violation
	for _, check := range []func() []violation{
		p.twoPods, p.released, func() []violation { return p.leaked(grace) }, p.drifted, p.leftover,
		p.forgotten, func() []violation { return p.held(grace) }, p.unreachable, p.notReady,
	} {
		all = append(all, check()...)
	}
	return all
}

// claims maps an address to the pods, links or ENIs that have it.
type claims map[netip.Addr][]string

func (c claims) add(a netip.Addr, by string) {
	if !slices.Contains(c[a], by) {
		c[a] = append(c[a], by)
	}
}

func (c claims) contested(witness string) (all []violation) {
	for a, by := range c {
		if len(by) > 1 {
			slices.Sort(by)
			all = append(all, violation{twoPods, fmt.Sprintf("%v by %s: %s", a, witness, strings.Join(by, ", "))})
		}
	}
	return all
}

// twoPods returns the addresses that two pods have. It checks each witness
// separately, because just one of them may show it.
func (p observation) twoPods() []violation {
	results, sandboxes, routes, agent, ec2 := claims{}, claims{}, claims{}, claims{}, claims{}
	for _, pod := range p.Pods {
		results.add(pod.Addr, pod.Name)
		for _, a := range pod.Sandbox {
			sandboxes.add(a, pod.Name)
		}
	}
	for _, r := range p.Routes {
		routes.add(r.Addr, r.Link)
	}
	for _, a := range p.Agent.Allocations {
		agent.add(a.Addr, a.Link)
	}
	for _, e := range p.ENIs {
		for _, a := range e.Addrs {
			ec2.add(a.Addr(), e.ID)
		}
	}
	return slices.Concat(results.contested("CNI results"), sandboxes.contested("sandboxes"),
		routes.contested("routes"), agent.contested("the agent"), ec2.contested("EC2"))
}

// released returns the running pods with an address that is on no ENI of the
// instance.
func (p observation) released() (all []violation) {
	for _, pod := range p.Pods {
		if !slices.ContainsFunc(p.ENIs, func(e eniState) bool { return e.Instance == p.Instance && owns(e.Addrs, pod.Addr) }) {
			all = append(all, violation{released, fmt.Sprintf("%v of %s is on no ENI of the node", pod.Addr, pod.Name)})
		}
	}
	return all
}

func owns(blocks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) })
}

// leaked returns the ENIs that the agent has created and that are not attached to the
// node.
func (p observation) leaked(grace time.Duration) (all []violation) {
	for _, e := range p.ENIs {
		switch {
		case !e.ByAgent || e.Instance == p.Instance:
		case e.Instance != "":
			all = append(all, violation{eniLeaked, fmt.Sprintf("%s is attached to %s", e.ID, e.Instance)})
		case e.Idle > grace:
			all = append(all, violation{eniLeaked, fmt.Sprintf("%s is %s for %v", e.ID, e.Status, e.Idle.Round(time.Millisecond))})
		}
	}
	return all
}

func (p observation) drifted() (all []violation) {
	for _, c := range p.Drift {
		all = append(all, violation{drifted, c})
	}
	return all
}

// leftover returns the links and routes in the kernel that belong to no running pod.
func (p observation) leftover() (all []violation) {
	links := map[string]netip.Addr{}
	for _, pod := range p.Pods {
		links[pod.Link] = pod.Addr
	}
	for _, l := range p.Links {
		if _, ok := links[l]; !ok {
			all = append(all, violation{leftover, "link " + l + " of no running pod"})
		}
	}
	for _, r := range p.Routes {
		if a, ok := links[r.Link]; !ok || a != r.Addr {
			all = append(all, violation{leftover, fmt.Sprintf("route to %v by %s of no running pod", r.Addr, r.Link)})
		}
	}
	return all
}

// forgotten returns the running pods with an address that the agent's status shows
// neither as allocated to the pod nor as quarantined.
func (p observation) forgotten() (all []violation) {
	if p.Agent.Problem != "" {
		return nil // notReady reports it
	}
	for _, pod := range p.Pods {
		mine := func(a allocation) bool { return a.Addr == pod.Addr && a.Link == pod.Link }
		if !slices.ContainsFunc(p.Agent.Allocations, mine) && !slices.Contains(p.Agent.Quarantined, pod.Addr) {
			all = append(all, violation{forgotten, fmt.Sprintf("the agent does not show %v of %s", pod.Addr, pod.Name)})
		}
	}
	return all
}

func (p observation) held(grace time.Duration) (all []violation) {
	for _, a := range p.Agent.Allocations {
		if a.Ended > grace {
			all = append(all, violation{held, fmt.Sprintf("%v is still allocated to %s, whose sandbox ended %v ago", a.Addr, a.Link, a.Ended.Round(time.Millisecond))})
		}
	}
	return all
}

func (p observation) unreachable() (all []violation) {
	for _, pod := range p.Pods {
		for _, s := range pod.Unreachable {
			all = append(all, violation{unreachable, fmt.Sprintf("%s (%v): %s", pod.Name, pod.Addr, s)})
		}
	}
	return all
}

func (p observation) notReady() []violation {
	if p.Agent.Problem == "" {
		return nil
	}
	return []violation{{notReady, p.Agent.Problem}}
}

// takenFrom returns the violations that occur when blocks are unassigned from the
// node while pods run. The loop checks it at every time, not only in observations.
func takenFrom(pods []podState, blocks []netip.Prefix, how string) (all []violation) {
	for _, pod := range pods {
		if owns(blocks, pod.Addr) {
			all = append(all, violation{released, fmt.Sprintf("%v of running pod %s: %s", pod.Addr, pod.Name, how)})
		}
	}
	return all
}

// givenTwice returns a violation if a CNI result has the address of a running pod.
func givenTwice(pods []podState, got podState) (all []violation) {
	for _, pod := range pods {
		if pod.Addr == got.Addr && pod.Name != got.Name {
			all = append(all, violation{twoPods, fmt.Sprintf("%v was allocated to %s while %s has it", got.Addr, got.Name, pod.Name)})
		}
	}
	return all
}

// collectWithin is how long after the end of a pod its address must be available to
// an ADD that finds no other.
const collectWithin = 20 * time.Second

// starvedBy returns a violation if an ADD was refused for lack of addresses while
// pods that ended long ago hold some.
func starvedBy(reason string, a agentState) []violation {
	if !slices.Contains([]string{"all-in-use", "eni-limit", "slot-limit", "pool-limit"}, reason) {
		return nil
	}
	var idle []string
	for _, x := range a.Allocations {
		if x.Ended > collectWithin {
			idle = append(idle, x.Addr.String())
		}
	}
	if idle == nil {
		return nil
	}
	return []violation{{starved, fmt.Sprintf("ADD was refused with reason %s while deleted pods hold %v", reason, idle)}}
}
