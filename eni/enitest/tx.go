// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// tx is a transaction: it reads or changes the state. It holds the mutex of the
// Cloud from begin to end.
type tx struct {
	c   *Cloud
	now time.Time
	// view is the time of the state that Describe calls show.
	view time.Time
	// caller is the caller of the API, as in the audit log.
	caller string
	// call means that a call of the API runs in the transaction.
	call bool
}

func (c *Cloud) begin() *tx {
	c.mu.Lock()
	t := &tx{c: c, now: time.Now()}
	t.view = t.now.Add(-c.lag.Describe)
	t.deleteDue()
	return t
}

// seenBy returns the ENIs attached to the instance at the given time, as the
// instance itself sees them: its primary ENI is among them from the launch,
// whatever the lag.
func (t *tx) seenBy(i *Instance, at time.Time) []*ENI {
	found := t.attached(i.ID, at)
	if at.Before(i.LaunchedAt) {
		found = slices.DeleteFunc(t.attached(i.ID, i.LaunchedAt), func(e *ENI) bool { return !e.primary() })
	}
	return found
}

// self returns the instance that makes the call, nil if the caller is not an
// instance or if Describe calls show it without help.
func (t *tx) self() *Instance {
	if i := t.instance(t.caller); i != nil && t.view.Before(i.LaunchedAt) {
		return i
	}
	return nil
}

func (t *tx) end() { t.c.mu.Unlock() }

// deleteDue deletes the ENIs of instances that have terminated since the last
// transaction.
func (t *tx) deleteDue() {
	deleteAt := t.c.state.deleteAt
	due := slices.DeleteFunc(slices.Collect(maps.Keys(deleteAt)), func(id string) bool { return t.now.Before(deleteAt[id]) })
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(deleteAt[a].Compare(deleteAt[b]), strings.Compare(a, b))
	})
	for _, id := range due {
		if e := t.c.state.enis.at(id, t.now); e != nil {
			t.free(deleteAt[id], e)
		}
		delete(deleteAt, id)
	}
}

// eni returns the ENI as it is now, nil if there is none.
func (t *tx) eni(id string) *ENI { return t.eniAt(id, t.now) }

// eniAt returns the ENI as it was at the given time, nil if there was none.
func (t *tx) eniAt(id string, at time.Time) *ENI { return t.c.state.enis.at(id, at).viewAt(at) }

// allENIs returns the ENIs as they were at the given time, by ID.
func (t *tx) allENIs(at time.Time) []*ENI {
	all := existing(t.c.state.enis, at)
	for i, e := range all {
		all[i] = e.viewAt(at)
	}
	return all
}

// put stores e as the current version of its ENI.
func (t *tx) put(e *ENI) {
	t.modified(t.c.state.enis.at(e.ID, t.now), e)
	t.c.state.enis.set(t, e.ID, e)
	if e.Attachment != nil && e.Attachment.Instance != "" {
		ever := t.c.state.everAttached
		if ever[e.Attachment.Instance] == nil {
			ever[e.Attachment.Instance] = map[string]bool{}
		}
		ever[e.Attachment.Instance][e.ID] = true
	}
}

func (t *tx) instance(id string) *Instance { return t.c.state.instances.at(id, t.now) }

func (t *tx) putInstance(i *Instance) { t.c.state.instances.set(t, i.ID, i) }

func (t *tx) subnet(id string) *Subnet { return t.c.state.subnets.at(id, t.now) }

func (t *tx) putSubnet(s *Subnet) { t.c.state.subnets.set(t, s.ID, s) }

// recount updates the number of free addresses of a subnet after a change of its
// space.
func (t *tx) recount(at time.Time, subnet string) {
	s, free := t.subnet(subnet), t.c.state.spaces[subnet].v4.free
	if s.Free == free {
		return
	}
	d := *s
	d.Free = free
	t.c.state.subnets.setAt(t, at, s.ID, &d)
}

// attached returns the ENIs attached to the instance at the given time, by
// card and device index.
func (t *tx) attached(instance string, at time.Time) []*ENI {
	var found []*ENI
	for id := range t.c.state.everAttached[instance] {
		e := t.eniAt(id, at)
		if e != nil && e.Attachment != nil && e.Attachment.Instance == instance {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *ENI) int {
		return cmp.Or(a.Attachment.Card-b.Attachment.Card, a.Attachment.Device-b.Attachment.Device)
	})
	return found
}

// free deletes an ENI and releases its addresses.
func (t *tx) free(at time.Time, e *ENI) {
	space := t.c.state.spaces[e.Subnet]
	for _, p := range e.owned() {
		space.release(p)
	}
	t.c.state.enis.setAt(t, at, e.ID, nil)
	t.recount(at, e.Subnet)
	if e.Type == "trunk" {
		for _, b := range t.branches(e.ID) {
			b = b.clone()
			b.Trunk = nil
			t.put(b)
		}
	}
	t.pruneENIs()
}

// pruneENIs drops the ENIs that were deleted too long ago for any lag from the index of
// attached ENIs.
func (t *tx) pruneENIs() {
	for _, ever := range t.c.state.everAttached {
		maps.DeleteFunc(ever, func(id string, _ bool) bool { return t.c.state.enis[id] == nil })
	}
}

// emit queues an event for the hooks. It omits an event of kind Assigned or
// Unassigned without any addresses.
func (t *tx) emit(op Op, e *ENI, instance string, changed []netip.Prefix) {
	if len(changed) == 0 && (op == Assigned || op == Unassigned) {
		return
	}
	t.c.events = append(t.c.events, Event{Op: op, Instance: instance, ENI: *e.clone(), Changed: changed})
}
