// SPDX-License-Identifier: Apache-2.0

package enitest

import "net/netip"

// Op is what an Event is about.
type Op string

// The changes that a datapath has to follow.
const (
	// Attached: the ENI has become a device of the instance.
	Attached Op = "attached"
	// Detached: the ENI has left the instance. Event.ENI still shows the
	// attachment that ended.
	Detached Op = "detached"
	// Assigned: the ENI has got more addresses or prefixes.
	Assigned Op = "assigned"
	// Unassigned: the ENI has lost addresses or prefixes.
	Unassigned Op = "unassigned"
)

// Event is a change of which ENI is where and has which addresses.
type Event struct {
	Op Op
	// Instance is the instance that the ENI is or was attached to; empty for a
	// change of addresses while it is attached to none.
	Instance string
	// ENI is the interface after the change.
	ENI ENI
	// Changed is what Assigned and Unassigned are about; single addresses are
	// prefixes of full length.
	Changed []netip.Prefix
}

// OnChange adds a function that is called with each Event before the API call
// that made it is answered, in the order of the changes. It may read the Cloud,
// over the API too, but must not change it.
func (c *Cloud) OnChange(f func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = append(c.hooks, f)
}

// deliver hands all undelivered events to the hooks and returns when they are
// done. A channel stands in for a mutex because a hook may sleep, and inside a
// synctest bubble time stands still while a goroutine waits for a mutex.
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
