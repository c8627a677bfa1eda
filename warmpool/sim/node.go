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
	// waiting are pods in order of their ADD; those that have left are skipped.
	waiting []ticket
	waits   int
	bound   int
	memory  warmpool.Memory
	// proved says that the node has had an address for pods.
	proved bool
	// plan is what is left of the last decision, op the action under way.
	plan   []warmpool.Action
	op     *operation
	lookAt time.Duration
	// exhausted is until when the node takes the subnet for empty, noGrowth
	// until when it does not ask again.
	exhausted, noGrowth time.Duration
}

type eni struct {
	id                string
	primary           bool
	block             int // of its own address
	born              time.Duration
	slots             []*slot
	assigned, cooling int
}

type slot struct {
	eni        *eni
	block      int
	used, cool int
	// idle is since when no pod has had an address of it.
	idle time.Duration
}

type podState uint8

const (
	gone podState = iota
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

// add is a pod's ADD.
func (e *engine) add(n *node, id int) {
	p := &n.pods[id]
	p.state, p.since = waiting, e.now
	if n.waits == 0 && e.place(n, p) {
		e.m.served(e.now, 0)
	} else {
		n.waiting = append(n.waiting, ticket{id, p.generation})
		n.waits++
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
	if e.cfg.Placement == Spread {
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

// remove is the end of a pod.
func (e *engine) remove(n *node, ev Event) error {
	if ev.Pod >= len(n.pods) || n.pods[ev.Pod].state == gone {
		return fmt.Errorf("sim: %w: pod %d leaves node %d but is not there", ErrTrace, ev.Pod, ev.Node)
	}
	p := &n.pods[ev.Pod]
	switch p.state {
	case announced:
		n.bound--
	case waiting:
		n.waits--
		e.m.waiting--
		e.m.gaveUp(e.now, e.now-p.since)
	case running:
		e.release(n, p.slot)
	}
	p.state, p.slot = gone, nil
	e.changed(n)
	return nil
}

func (e *engine) release(n *node, s *slot) {
	s.used--
	s.eni.assigned--
	e.m.assigned--
	if s.used == 0 {
		s.idle = e.now
	}
	if e.cfg.Cooldown > 0 {
		s.cool++
		s.eni.cooling++
		e.cooling.push(rest{until: e.now + e.cfg.Cooldown, node: int32(n.id), slot: s})
		return
	}
	e.serve(n)
}

func (e *engine) cooled(r rest) {
	e.m.events++
	r.slot.cool--
	r.slot.eni.cooling--
	n := &e.nodes[r.node]
	e.serve(n)
	e.changed(n)
}

// serve gives what is free to the pods that wait, first come first served.
func (e *engine) serve(n *node) {
	done := 0
	for _, t := range n.waiting {
		p := &n.pods[t.pod]
		if p.state == waiting && p.generation == t.generation {
			if !e.place(n, p) {
				break
			}
			n.waits--
			e.m.waiting--
			e.m.served(e.now, e.now-p.since)
		}
		done++
	}
	n.waiting = slices.Delete(n.waiting, 0, done)
}

// changed lets the agent look: at once, or at its next period.
func (e *engine) changed(n *node) {
	if n.op != nil {
		return
	}
	if e.cfg.Period == 0 {
		e.decide(n)
		return
	}
	// The agents of a fleet have not started at the same moment.
	phase := e.cfg.Period * time.Duration(n.id%16) / 16
	e.lookBy(n, (e.now-phase)/e.cfg.Period*e.cfg.Period+e.cfg.Period+phase)
}

func (e *engine) lookBy(n *node, at time.Duration) {
	if at < n.lookAt {
		n.lookAt = at
		e.push(at, n.id, dueLook)
	}
}

func (e *engine) decide(n *node) {
	if n.op != nil {
		return
	}
	e.m.decisions++
	d := warmpool.Plan(e.policy, e.snapshot(n))
	if e.cfg.Decided != nil {
		e.cfg.Decided(n.id, e.snapshot(n), d) // the same one: nothing has changed yet
	}
	n.memory = d.Memory
	n.plan = d.Actions
	if e.now < n.exhausted {
		e.lookBy(n, n.exhausted)
	}
	if e.now < n.noGrowth {
		e.lookBy(n, n.noGrowth)
		n.plan = slices.DeleteFunc(slices.Clone(n.plan), func(a warmpool.Action) bool {
			return a.Op == warmpool.OpAssign || a.Op == warmpool.OpCreate
		})
	}
	if d.Next > 0 {
		e.lookBy(n, e.now+max(d.Next, time.Millisecond))
	}
	e.start(n)
}

func (e *engine) snapshot(n *node) warmpool.Snapshot {
	unit := e.cfg.Limits.AddressesPerSlot
	e.scratch, e.perSlot = e.scratch[:0], e.perSlot[:0]
	for _, x := range n.enis {
		w := warmpool.ENI{
			ID: x.id, Primary: x.primary, Slots: len(x.slots), Addresses: len(x.slots) * unit,
			Assigned: x.assigned, Cooling: x.cooling, Age: e.now - x.born,
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
	waits := n.waits
	if !n.proved {
		// As in package agent, a node gets a first address in any case.
		waits = max(1, waits)
	}
	return warmpool.Snapshot{
		Now: epoch.Add(e.now), Limits: e.cfg.Limits, ENIs: e.scratch, Memory: n.memory,
		Demand: warmpool.Demand{Waiting: waits, Bound: n.waits + n.bound},
		Subnet: warmpool.Subnet{Exhausted: e.now < n.exhausted},
	}
}
