// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"time"
)

// picture is what the witnesses say of the node at one moment, after the trouble
// of a batch has ended. The invariants are functions of it.
type picture struct {
	// Instance is EC2's ID of the node.
	Instance string
	// Pods are the running pods by the runtime's word: their ADD has succeeded and
	// their DEL has not begun.
	Pods []podPicture
	// Routes and Links are what the node's kernel has for pods: routes to single
	// addresses, and host links by name.
	Routes []podRoute
	Links  []string
	// Drift are the changes that would make the kernel what it shall be.
	Drift []string
	// ENIs are all network interfaces that EC2 has.
	ENIs []eniPicture
	// Agent is what the agent's status says.
	Agent agentPicture
}

// podPicture is a running pod.
type podPicture struct {
	Name string
	Addr netip.Addr // of the CNI result
	Link string     // its host link
	// Sandbox are the addresses of its interface.
	Sandbox []netip.Addr
	// Silent says what did not reach the pod or came back wrong, empty if
	// everything did.
	Silent []string
}

// podRoute is a host route to a pod.
type podRoute struct {
	Addr netip.Addr
	Link string
}

// eniPicture is an ENI as EC2 has it.
type eniPicture struct {
	ID string
	// Ours says that the agent has made it.
	Ours     bool
	Instance string // that it is attached to; empty if none
	Status   string
	Addrs    []netip.Prefix // secondary addresses and prefixes
	// Idle is for how long it has been seen attached to nothing, without pause; 0
	// while it is attached.
	Idle time.Duration
}

// agentPicture is the agent's status.
type agentPicture struct {
	// Trouble says why the agent does not serve, empty if it does.
	Trouble     string
	Allocations []allocation
	// Quarantined are addresses that the status names as in use by the kernel's
	// word, or as not to be given away for another reason.
	Quarantined []netip.Addr
}

// allocation is an address that the agent says an attachment holds.
type allocation struct {
	Addr netip.Addr
	Link string // the pod's host link
	// Ended is for how long the runtime has had no such pod; 0 while it has one.
	Ended time.Duration
}

// violation is an invariant that does not hold.
type violation struct {
	Kind breach
	What string
}

// String returns the violation in one line.
func (v violation) String() string {
	what := strings.Join(strings.Fields(v.What), " ")
	return string(v.Kind) + ": " + what[:min(len(what), 400)]
}

// breach is a kind of violation.
type breach string

const (
	twoPods     breach = "two-pods"     // an address has two pods
	released    breach = "released"     // EC2 took the address of a running pod from the node
	eniLeaked   breach = "eni-leaked"   // an ENI of ours is attached to nothing, for too long
	drifted     breach = "kernel-drift" // the kernel is not as desired
	leftover    breach = "leftover"     // a route or host link of a pod that is gone
	forgotten   breach = "forgotten"    // the agent does not know a running pod's address
	held        breach = "held"         // an address stays with a pod that is gone, for too long
	starved     breach = "starved"      // ADD finds no address though pods that are gone hold some
	unreachable breach = "unreachable"  // a running pod does not answer, or cannot reach out
	notReady    breach = "not-ready"    // the agent does not serve though nothing is wrong any more
	agentEnded  breach = "agent-ended"  // the agent ended by itself
	notRepaired breach = "not-repaired" // a damage to the node's network stays
	delRefused  breach = "del-refused"  // DEL fails again and again
)

// breaches lists all kinds.
func breaches() []breach {
	return []breach{
		twoPods, released, eniLeaked, drifted, leftover, forgotten, held,
		starved, unreachable, notReady, agentEnded, notRepaired, delRefused,
	}
}
