// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// grace is how long an ENI may stay attached to nothing, and an address with a pod
// that is gone: the agent looks for both once a minute.
const grace = 75 * time.Second

// violations returns what does not hold in p. How long something may stay is
// grace, or nothing at the end of the loop, when the agent has started again.
func (p picture) violations(grace time.Duration) []violation {
	var all []violation
	for _, check := range []func() []violation{
		p.twoPods, p.released, func() []violation { return p.leaked(grace) }, p.drifted, p.leftover,
		p.forgotten, func() []violation { return p.held(grace) }, p.unreachable, p.notReady,
	} {
		all = append(all, check()...)
	}
	return all
}

// claims maps an address to those that claim it.
type claims map[netip.Addr][]string

func (c claims) add(a netip.Addr, who string) {
	if !slices.Contains(c[a], who) {
		c[a] = append(c[a], who)
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

// twoPods asks each witness by itself, for each may be the only one to see it.
func (p picture) twoPods() []violation {
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

// released wants the address of each running pod on an ENI of the instance.
func (p picture) released() (all []violation) {
	for _, pod := range p.Pods {
		if !slices.ContainsFunc(p.ENIs, func(e eniPicture) bool { return e.Instance == p.Instance && owns(e.Addrs, pod.Addr) }) {
			all = append(all, violation{released, fmt.Sprintf("%v of %s is on no ENI of the node", pod.Addr, pod.Name)})
		}
	}
	return all
}

func owns(blocks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) })
}

// leaked wants what the agent made attached to the node.
func (p picture) leaked(grace time.Duration) (all []violation) {
	for _, e := range p.ENIs {
		switch {
		case !e.Ours || e.Instance == p.Instance:
		case e.Instance != "":
			all = append(all, violation{eniLeaked, fmt.Sprintf("%s is attached to %s", e.ID, e.Instance)})
		case e.Idle > grace:
			all = append(all, violation{eniLeaked, fmt.Sprintf("%s is %s for %v", e.ID, e.Status, e.Idle.Round(time.Millisecond))})
		}
	}
	return all
}

func (p picture) drifted() (all []violation) {
	for _, c := range p.Drift {
		all = append(all, violation{drifted, c})
	}
	return all
}

// leftover wants nothing in the kernel for pods that are gone, and every running
// pod's own there.
func (p picture) leftover() (all []violation) {
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

// forgotten wants each running pod's address with this pod in the agent's status,
// or named there as not to be given away.
func (p picture) forgotten() (all []violation) {
	if p.Agent.Trouble != "" {
		return nil // notReady says so
	}
	for _, pod := range p.Pods {
		mine := func(a allocation) bool { return a.Addr == pod.Addr && a.Link == pod.Link }
		if !slices.ContainsFunc(p.Agent.Allocations, mine) && !slices.Contains(p.Agent.Quarantined, pod.Addr) {
			all = append(all, violation{forgotten, fmt.Sprintf("the agent does not show %v of %s", pod.Addr, pod.Name)})
		}
	}
	return all
}

func (p picture) held(grace time.Duration) (all []violation) {
	for _, a := range p.Agent.Allocations {
		if a.Ended > grace {
			all = append(all, violation{held, fmt.Sprintf("%v is held for %s, whose sandbox is gone for %v", a.Addr, a.Link, a.Ended.Round(time.Millisecond))})
		}
	}
	return all
}

func (p picture) unreachable() (all []violation) {
	for _, pod := range p.Pods {
		for _, s := range pod.Silent {
			all = append(all, violation{unreachable, fmt.Sprintf("%s (%v): %s", pod.Name, pod.Addr, s)})
		}
	}
	return all
}

func (p picture) notReady() []violation {
	if p.Agent.Trouble == "" {
		return nil
	}
	return []violation{{notReady, p.Agent.Trouble}}
}

// takenFrom returns the harm that EC2 does when it takes blocks from the node
// while pods run. It holds at every moment, not only in a picture.
func takenFrom(pods []podPicture, blocks []netip.Prefix, how string) (all []violation) {
	for _, pod := range pods {
		if owns(blocks, pod.Addr) {
			all = append(all, violation{released, fmt.Sprintf("%v of running pod %s: %s", pod.Addr, pod.Name, how)})
		}
	}
	return all
}

// givenTwice returns the harm of a CNI result with an address that a running pod has.
func givenTwice(pods []podPicture, got podPicture) (all []violation) {
	for _, pod := range pods {
		if pod.Addr == got.Addr && pod.Name != got.Name {
			all = append(all, violation{twoPods, fmt.Sprintf("%v was given to %s while %s has it", got.Addr, got.Name, pod.Name)})
		}
	}
	return all
}

// collectWithin is how long a pod must be gone before an ADD that finds no address
// may count on the pod's.
const collectWithin = 20 * time.Second

// starvedBy returns the harm of an ADD that was refused, for a reason, while pods
// that are long gone hold addresses.
func starvedBy(reason string, a agentPicture) []violation {
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
	return []violation{{starved, fmt.Sprintf("ADD is refused for %s while pods that are gone hold %v", reason, idle)}}
}
