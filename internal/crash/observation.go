// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"time"
)

// observation is the state of the node at one time after the faults of a batch, as
// its witnesses show it. The invariants are functions of it.
type observation struct {
	// Instance is the instance ID of the node.
	Instance string
	// Pods are the running pods of the runtime: their ADD has succeeded and their DEL
	// has not begun.
	Pods []podState
	// Routes are the routes to single addresses in the node's kernel, and Links the
	// names of the host links.
	Routes []podRoute
	Links  []string
	// Drift are the changes that would bring the kernel to its desired state.
	Drift []string
	// ENIs are all network interfaces in EC2.
	ENIs []eniState
	// Agent is the agent's status.
	Agent agentState
}

// podState is a running pod.
type podState struct {
	Name string
	Addr netip.Addr // the address in the CNI result
	Link string     // the pod's host link
	// Sandbox are the addresses of the pod's interface.
	Sandbox []netip.Addr
	// Unreachable has an error for each connection that failed, and is empty if all
	// of them succeeded.
	Unreachable []string
}

// podRoute is a host route to a pod.
type podRoute struct {
	Addr netip.Addr
	Link string
}

// eniState is an ENI in EC2.
type eniState struct {
	ID string
	// ByAgent means that the agent has created it.
	ByAgent  bool
	Instance string // that it is attached to; empty if none
	Status   string
	Addrs    []netip.Prefix // secondary addresses and prefixes
	// Idle is how long the ENI has been detached, as far as the loop has seen it. It is
	// 0 while the ENI is attached.
	Idle time.Duration
}

// agentState is the agent's status.
type agentState struct {
	// Problem is the reason why the agent is not ready, empty if it is ready.
	Problem     string
	Allocations []allocation
	// Quarantined are the addresses that the status shows as quarantined.
	Quarantined []netip.Addr
}

// allocation is an allocated address in the agent's status.
type allocation struct {
	Addr netip.Addr
	Link string // the pod's host link
	// Ended is the time since the runtime has deleted the pod, 0 while the pod exists.
	Ended time.Duration
}

// violation is a violation of an invariant.
type violation struct {
	Kind violationKind
	What string
}

// String returns the violation in one line.
func (v violation) String() string {
	what := strings.Join(strings.Fields(v.What), " ")
	return string(v.Kind) + ": " + what[:min(len(what), 400)]
}

// violationKind is a kind of violation.
type violationKind string

const (
	twoPods     violationKind = "two-pods"     // two pods have the same address
	released    violationKind = "released"     // the address of a running pod is not on an ENI of the node
	eniLeaked   violationKind = "eni-leaked"   // an ENI of the agent has been detached for too long
	drifted     violationKind = "kernel-drift" // the state of the kernel is not the desired one
	leftover    violationKind = "leftover"     // a route or host link belongs to a deleted pod
	forgotten   violationKind = "forgotten"    // the agent does not know a running pod's address
	held        violationKind = "held"         // a deleted pod has held an address for too long
	starved     violationKind = "starved"      // ADD finds no address although deleted pods hold some
	unreachable violationKind = "unreachable"  // a running pod does not answer, or cannot reach the internet
	notReady    violationKind = "not-ready"    // the agent is not ready although the faults have ended
	agentEnded  violationKind = "agent-ended"  // the agent ended by itself
	notRepaired violationKind = "not-repaired" // the agent has not repaired the node's network
	delRefused  violationKind = "del-refused"  // DEL fails again and again
)

// violationKinds returns all kinds of violations.
func violationKinds() []violationKind {
	return []violationKind{
		twoPods, released, eniLeaked, drifted, leftover, forgotten, held,
		starved, unreachable, notReady, agentEnded, notRepaired, delRefused,
	}
}
