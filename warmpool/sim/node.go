// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

type node struct {
	id      int
	enis    []*eni
	nextENI int
	pods    []pod
	// waiting holds the pods in order of their ADD, including stopped ones, which
	// serve skips. waitingCount counts those that still wait.
	waiting      []ticket
	waitingCount int
	bound        int
	memory       warmpool.Memory
	// hadAddress is set once the node has had an address for pods.
	hadAddress bool
	// plan holds the remaining actions of the last decision, op the current one.
	plan     []warmpool.Action
	op       *operation
	decideAt time.Duration
	changed  bool // the node is in engine.changes
	// exhaustedUntil is the time until which the node treats the subnet as
	// exhausted, noGrowthUntil the time until which it does not request growth.
	exhaustedUntil, noGrowthUntil time.Duration
}

type eni struct {
	id                string
	primary           bool
	block             int // the block of its primary private IP
	created           time.Duration
	slots             []*slot
	assigned, cooling int
}

type slot struct {
	eni        *eni
	block      int
	used, cool int
	// idleSince is the time since which no pod has used an address of the slot.
	idleSince time.Duration
}

type podState uint8

const (
	absent podState = iota
	announced
	waiting
	running
)

type pod struct {
	state      podState
	generation uint32
	since      time.Duration
	slot       *slot
}

type ticket struct {
	pod        int
	generation uint32
}

// add handles the ADD of a pod.
func (e *engine) add(n *node, id int) {
	p := &n.pods[id]
	p.state, p.since = waiting, e.now
	if n.waitingCount == 0 && e.place(n, p) {
		e.m.served(e.now, 0)
	} else {
		n.waiting = append(n.waiting, ticket{id, p.generation})
		n.waitingCount++
		e.m.waiting++
	}
	e.changed(n)
}

// place gives a pod an address if there is one.
func (e *engine) place(n *node, p *pod) bool {
	s := e.choose(n)
	if s == nil {
		return false
	}
	s.used++
	s.eni.assigned++
	e.m.assigned++
	p.state, p.slot = running, s
	return true
}

func (e *engine) choose(n *node) *slot {
	unit := e.cfg.Limits.AddressesPerSlot
	if e.cfg.AddressChoice == Spread {
		return e.chooseAny(n, unit)
	}
	for _, x := range n.enis {
		if x.assigned+x.cooling == len(x.slots)*unit {
			continue
		}
		var best *slot
		for _, s := range x.slots {
			if s.used+s.cool < unit && (best == nil || s.used > best.used) {
				if best = s; unit == 1 {
					break
				}
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

func (e *engine) chooseAny(n *node, unit int) *slot {
	var found *slot
	seen := 0
	for _, x := range n.enis {
		for _, s := range x.slots {
			if s.used+s.cool >= unit {
				continue
			}
			if seen++; e.rng.IntN(seen) == 0 {
				found = s
			}
		}
	}
	return found
}

// remove handles the end of a pod.
func (e *engine) remove(n *node, ev Event) error {
	if ev.Pod >= len(n.pods) || n.pods[ev.Pod].state == absent {
		return fmt.Errorf("sim: %w: pod %d stops on node %d but does not run there", ErrTrace, ev.Pod, ev.Node)
	}
	p := &n.pods[ev.Pod]
	switch p.state {
	case announced:
		n.bound--
	case waiting:
		n.waitingCount--
		e.m.waiting--
		e.m.gaveUp(e.now, e.now-p.since)
	case running:
		e.release(n, p.slot)
	}
	p.state, p.slot = absent, nil
	e.changed(n)
	return nil
}

func (e *engine) release(n *node, s *slot) {
	s.used--
	s.eni.assigned--
	e.m.assigned--
	if s.used == 0 {
		s.idleSince = e.now
	}
	if e.cfg.Cooldown > 0 {
		s.cool++
		s.eni.cooling++
		e.cooling.push(coolingSlot{until: e.now + e.cfg.Cooldown, node: int32(n.id), slot: s})
		return
	}
	e.serve(n)
}

func (e *engine) cooled(r coolingSlot) {
	e.m.events++
	r.slot.cool--
	r.slot.eni.cooling--
	n := &e.nodes[r.node]
	e.serve(n)
	e.changed(n)
}

// serve gives free addresses to waiting pods in the order of their ADDs.
func (e *engine) serve(n *node) {
	done := 0
	for _, t := range n.waiting {
		p := &n.pods[t.pod]
		if p.state == waiting && p.generation == t.generation {
			if !e.place(n, p) {
				break
			}
			n.waitingCount--
			e.m.waiting--
			e.m.served(e.now, e.now-p.since)
		}
		done++
	}
	n.waiting = slices.Delete(n.waiting, 0, done)
}

// changed lets the agent decide, at the end of this moment or of its period.
func (e *engine) changed(n *node) {
	if n.op != nil {
		return
	}
	if e.cfg.Period == 0 {
		if !n.changed {
			n.changed = true
			e.changes = append(e.changes, n)
		}
		return
	}
	// The agents of a fleet do not start at the same time.
	phase := e.cfg.Period * time.Duration(n.id%16) / 16
	e.decideBy(n, (e.now-phase)/e.cfg.Period*e.cfg.Period+e.cfg.Period+phase)
}

// decideChanged lets the agents of the changed nodes decide, once for all events of
// this moment.
func (e *engine) decideChanged() {
	changes := e.changes
	e.changes = nil
	for _, n := range changes {
		n.changed = false
		e.decide(n)
	}
}

func (e *engine) decideBy(n *node, at time.Duration) {
	if at < n.decideAt {
		n.decideAt = at
		e.push(at, n.id, dueDecide)
	}
}

func (e *engine) decide(n *node) {
	if n.op != nil {
		return
	}
	e.m.decisions++
	d := warmpool.Plan(e.policy, e.snapshot(n))
	if e.cfg.Decided != nil {
		e.cfg.Decided(n.id, e.snapshot(n), d) // the snapshot of the decision, since nothing has changed
	}
	n.memory = d.Memory
	n.plan = d.Actions
	if e.now < n.exhaustedUntil {
		e.decideBy(n, n.exhaustedUntil)
	}
	if e.now < n.noGrowthUntil {
		e.decideBy(n, n.noGrowthUntil)
		n.plan = slices.DeleteFunc(slices.Clone(n.plan), func(a warmpool.Action) bool {
			return a.Op == warmpool.OpAssign || a.Op == warmpool.OpCreate
		})
	}
	if d.Next > 0 {
		e.decideBy(n, e.now+max(d.Next, time.Millisecond))
	}
	e.start(n)
}

func (e *engine) snapshot(n *node) warmpool.Snapshot {
	unit := e.cfg.Limits.AddressesPerSlot
	e.scratch, e.perSlot = e.scratch[:0], e.perSlot[:0]
	for _, x := range n.enis {
		w := warmpool.ENI{
			ID: x.id, Primary: x.primary, Slots: len(x.slots), Addresses: len(x.slots) * unit,
			Assigned: x.assigned, Cooling: x.cooling, Age: e.now - x.created,
		}
		if unit > 1 {
			first := len(e.perSlot)
			for _, s := range x.slots {
				e.perSlot = append(e.perSlot, s.used)
			}
			middle := len(e.perSlot)
			for _, s := range x.slots {
				e.perSlot = append(e.perSlot, s.cool)
			}
			w.AssignedPerSlot, w.CoolingPerSlot = e.perSlot[first:middle:middle], e.perSlot[middle:len(e.perSlot):len(e.perSlot)]
		}
		e.scratch = append(e.scratch, w)
	}
	waits := n.waitingCount
	if !n.hadAddress {
		// As in package ipam/agent, a node always gets a first address.
		waits = max(1, waits)
	}
	return warmpool.Snapshot{
		Now: epoch.Add(e.now), Limits: e.cfg.Limits, ENIs: e.scratch, Memory: n.memory,
		Demand: warmpool.Demand{Waiting: waits, Bound: n.waitingCount + n.bound},
		Subnet: warmpool.Subnet{Exhausted: e.now < n.exhaustedUntil},
	}
}
