// SPDX-License-Identifier: Apache-2.0

package enitest

import "net/netip"

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
)

// Event is a change of the attachment or the addresses of an ENI.
type Event struct {
	Op Op
	// Instance is the ID of the instance that the ENI is or was attached to. It is
	// empty if the addresses of an ENI change that is not attached.
	Instance string
	// ENI is the interface after the change.
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
