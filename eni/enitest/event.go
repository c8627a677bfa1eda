// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
	"strings"
)

// Op is the kind of an Event.
type Op string

// The kinds of changes that a data plane must follow.
const (
	// Attached means that the ENI became a device of the instance: by an attachment, or
	// because the instance with the ENI was started.
	Attached Op = "attached"
	// Detached means that the device left the instance, because the attachment ended or
	// the instance was stopped. Event.ENI still shows the attachment.
	Detached Op = "detached"
	// Assigned means that the ENI got more addresses or prefixes.
	Assigned Op = "assigned"
	// Unassigned means that the ENI lost addresses or prefixes.
	Unassigned Op = "unassigned"
	// Modified means that the security groups, the source/destination check, the public
	// address, or the association with a trunk of an existing ENI changed.
	Modified Op = "modified"
	// NetworkChanged means that a call changed VPCs, subnets, route tables, network ACLs
	// or security groups. Cloud.RouteTables and its like return the new state.
	NetworkChanged Op = "network-changed"
)

// Event is a change of an ENI or of the network around it.
type Event struct {
	Op Op
	// Instance is the ID of the instance that the ENI is or was attached to. It is
	// empty if an ENI changes that is not attached.
	Instance string
	// ENI is the interface after the change. It is the zero ENI if Op is
	// NetworkChanged.
	ENI ENI
	// Changed holds the addresses and prefixes that were assigned or unassigned.
	// Single addresses are prefixes of full length.
	Changed []netip.Prefix
}

// OnChange adds a function that the Cloud calls with each Event, in the order of
// the changes, before it answers the API call that caused the change. The function
// may read the Cloud, also over the API, but must not change it.
func (c *Cloud) OnChange(f func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = append(c.hooks, f)
}

// modified queues an event if attributes that a data plane must follow differ.
func (t *tx) modified(before, after *ENI) {
	if before == nil || before.SourceDestCheck == after.SourceDestCheck && before.Public == after.Public &&
		slices.Equal(before.Groups, after.Groups) && (before.Trunk == nil) == (after.Trunk == nil) {
		return
	}
	instance := ""
	if after.Attachment != nil {
		instance = after.Attachment.Instance
	}
	t.emit(Modified, after, instance, nil)
}

// networkActions are parts of the names of the actions that change the network.
var networkActions = []string{"Vpc", "Subnet", "Route", "NetworkAcl", "SecurityGroup"}

// networkChanged queues an event if the action changes the network.
func (c *Cloud) networkChanged(action string) {
	if !slices.ContainsFunc(networkActions, func(part string) bool { return strings.Contains(action, part) }) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, Event{Op: NetworkChanged})
}

// deliver passes all undelivered events to the hooks and returns when the hooks
// have returned. It uses a channel as a mutex because a hook may sleep: inside a
// synctest bubble, time stands still while a goroutine waits for a mutex.
func (c *Cloud) deliver() {
	c.delivering <- struct{}{}
	defer func() { <-c.delivering }()
	for {
		c.mu.Lock()
		events, hooks := c.events, c.hooks
		c.events = nil
		c.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			for _, hook := range hooks {
				hook(e)
			}
		}
	}
}
