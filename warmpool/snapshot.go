// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Snapshot is all that a policy may look at: one network card of one node, and
// the address family whose slots are scarce there, at one moment. It is a
// value; a policy must not change what its slices hold.
type Snapshot struct {
	// Now is the time of the observation. Policies measure time only by the
	// difference between snapshots, so any epoch will do.
	Now time.Time
	// Card is the network card index. The AWS targets treat cards other than
	// 0 in their own way; nobody else looks at it.
	Card   int
	Limits Limits
	// ENIs are those of this card, in device order. Order decides where
	// growth goes first, so the same pool gives the same decision.
	ENIs   []ENI
	Demand Demand
	Subnet Subnet
	// Memory is what the last Decision handed back; zero at the start.
	Memory Memory
}

// Limits bound a card.
type Limits struct {
	// MaxENIs is the number of ENIs that the card may have, whoever uses them.
	MaxENIs int
	// SlotsPerENI is the number of slots of each ENI that pods may use: EC2's
	// addresses per interface, less the ENI's own address.
	SlotsPerENI int
	// AddressesPerSlot is 1 for secondary private IPs and 16 for /28 prefixes.
	// Zero means 1.
	AddressesPerSlot int
	// MaxPods caps the addresses that are any use to the node. Zero means no cap.
	MaxPods int
}

// ENI is one elastic network interface of the card.
type ENI struct {
	// ID is empty for an ENI that is being created: it counts as one of
	// Limits.MaxENIs, and its PendingSlots as supply, but nothing can be done
	// with it yet.
	ID      string
	Primary bool
	// NoPods says that pods get no address of it: a trunk ENI, an excluded or
	// a foreign one. It takes one of Limits.MaxENIs and is left alone.
	NoPods bool
	// Full says that EC2 takes no more slots on it at present, however many it
	// has.
	Full bool
	// Slots counts the slots that EC2 has filled, PendingSlots those that a
	// call in flight is filling.
	Slots, PendingSlots int
	// Addresses counts those that Slots hold. Zero with Slots > 0 means
	// Slots x Limits.AddressesPerSlot.
	Addresses int
	// Assigned counts the addresses that pods use, Cooling those that rest
	// after use. No address is both.
	Assigned, Cooling int
	// AssignedPerSlot and CoolingPerSlot say how Assigned and Cooling spread
	// over the slots; a missing tail is zero. They matter for prefixes only.
	// If AssignedPerSlot is nil, pods are taken to be packed; if only
	// CoolingPerSlot is nil, each cooling address is taken to sit in a slot of
	// its own that is otherwise free, so that none is given away by mistake.
	AssignedPerSlot, CoolingPerSlot []int
	// Age is the time since the ENI was attached.
	Age time.Duration
}

// Demand counts pods that are on the node and have no address.
type Demand struct {
	// Waiting counts pods whose CNI ADD waits for an address now.
	Waiting int
	// Bound counts pods that the scheduler has bound to the node and that have
	// no address yet, those that wait included. Zero if nobody tells.
	Bound int
}

// Pending is the number of pods known to need an address: the larger of the
// two counts, because a waiting pod is a bound one as well.
func (d Demand) Pending() int { return max(d.Waiting, d.Bound) }

// Subnet says what is left to take. The zero value means unknown.
type Subnet struct {
	// Free counts addresses, FreePrefixes whole aligned /28 blocks. Zero means
	// unknown unless Exhausted is set.
	Free, FreePrefixes int
	// Exhausted says that the subnet has refused a request lately, or that
	// somebody has declared it short. Growth beyond what pods need now is then
	// at the cost of other nodes.
	Exhausted bool
}

// Supply is a pool's state in addresses, summed over the ENIs for pods.
type Supply struct {
	// Unit is the number of addresses of one slot, at least 1.
	Unit int
	// Total counts addresses held and on their way, Pending those on their way.
	Total, Pending int
	// Assigned are in use; Cooling rest after use.
	Assigned, Cooling int
	// Slots counts slots held, FreeSlots those of them that hold no assigned
	// and no cooling address, EmptySlots those that hold no assigned one.
	Slots, FreeSlots, EmptySlots int
	// Room is the number of slots that can be added to ENIs that exist;
	// NewENIs how many more ENIs the card can have.
	Room, NewENIs int
}

// Usable is what can serve a pod now or as soon as a call in flight ends:
// pending addresses count, cooling ones do not.
func (s Supply) Usable() int { return s.Total - s.Cooling }

// Free is the part of Usable that no pod has.
func (s Supply) Free() int { return s.Total - s.Cooling - s.Assigned }

// Supply sums the snapshot up.
func (s *Snapshot) Supply() Supply {
	u := s.unit()
	out := Supply{Unit: u, NewENIs: max(0, s.Limits.MaxENIs-len(s.ENIs))}
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.NoPods {
			continue
		}
		out.Total += e.addresses(u) + e.PendingSlots*u
		out.Pending += e.PendingSlots * u
		out.Assigned += e.Assigned
		out.Cooling += e.Cooling
		out.Slots += e.Slots
		empty, free := e.idleSlots(u)
		out.EmptySlots += empty
		out.FreeSlots += free
		out.Room += s.room(e)
	}
	return out
}

func (s *Snapshot) unit() int { return max(1, s.Limits.AddressesPerSlot) }

// room is the number of slots that e can still take.
func (s *Snapshot) room(e *ENI) int {
	if e.NoPods || e.Full {
		return 0
	}
	return max(0, s.Limits.SlotsPerENI-e.Slots-e.PendingSlots)
}

func (e *ENI) addresses(unit int) int {
	if e.Addresses == 0 {
		return e.Slots * unit
	}
	return e.Addresses
}

// idleSlots counts the slots without an assigned address, and those of them
// that have no cooling one either.
func (e *ENI) idleSlots(unit int) (empty, free int) {
	if unit == 1 {
		empty = max(0, e.Slots-e.Assigned)
		return empty, max(0, empty-e.Cooling)
	}
	if e.AssignedPerSlot == nil {
		empty = max(0, e.Slots-ceilDiv(e.Assigned, unit))
		return empty, max(0, e.Slots-ceilDiv(e.Assigned+e.Cooling, unit))
	}
	for i := range e.Slots {
		if at(e.AssignedPerSlot, i) > 0 {
			continue
		}
		empty++
		if at(e.CoolingPerSlot, i) == 0 {
			free++
		}
	}
	if e.CoolingPerSlot == nil {
		free = max(0, free-e.Cooling)
	}
	return empty, free
}

func at(v []int, i int) int {
	if i < len(v) {
		return v[i]
	}
	return 0
}

func ceilDiv(a, b int) int {
	if a <= 0 {
		return 0
	}
	return (a + b - 1) / b
}

func alignUp(a, b int) int { return ceilDiv(a, b) * b }
