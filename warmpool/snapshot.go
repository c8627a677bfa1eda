// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Snapshot is the input of a policy: the state of one network card of one node at
// one moment, for the address family with scarce slots. A policy must not modify
// the slices.
type Snapshot struct {
	// Now is the time of the observation. Policies use only differences between
	// the times of snapshots, except Schedule, which uses the time of day.
	Now time.Time
	// Card is the network card index. Only AWS uses it: its targets differ on
	// cards other than 0.
	Card   int
	Limits Limits
	// ENIs are those of this card, in device order. Growth starts with the
	// first, so the same pool gives the same decision.
	ENIs   []ENI
	Demand Demand
	Subnet Subnet
	// Memory is the Memory of the previous Decision; zero at the start.
	Memory Memory
}

// Limits are the limits of a network card.
type Limits struct {
	// MaxENIs is the number of ENIs that the card may have, including those that
	// pods do not use.
	MaxENIs int
	// SlotsPerENI is the number of slots of each ENI that pods may use: EC2's
	// addresses per interface, minus the primary private IP.
	SlotsPerENI int
	// AddressesPerSlot is 1 for secondary private IPs and 16 for /28 prefixes.
	// Zero means 1.
	AddressesPerSlot int
	// MaxPods is the most pods with addresses of the card that the node runs; it caps the
	// usable addresses. The kubelet's max-pods counts pods with an ENI of their own too, which
	// the caller subtracts. Zero means no cap.
	MaxPods int
}

// ENI is one elastic network interface of the card.
type ENI struct {
	// ID is empty for an ENI that is being created. Such an ENI counts towards
	// Limits.MaxENIs, and its PendingSlots count as supply, but no action can
	// name it yet.
	ID      string
	Primary bool
	// NoPods means that pods get no addresses of this ENI: it is a trunk ENI, an
	// excluded one, or one that the agent does not manage. It counts towards
	// Limits.MaxENIs and no action changes it.
	NoPods bool
	// Full means that EC2 refuses more slots on this ENI at present, even below
	// Limits.SlotsPerENI.
	Full bool
	// Slots counts the slots that EC2 has assigned, PendingSlots the slots that a
	// call in flight is assigning.
	Slots, PendingSlots int
	// Addresses counts the addresses in Slots. Zero with Slots > 0 means
	// Slots x Limits.AddressesPerSlot.
	Addresses int
	// Assigned counts the addresses that pods use, Cooling the released addresses
	// in their cooldown. No address counts in both.
	Assigned, Cooling int
	// AssignedPerSlot and CoolingPerSlot are Assigned and Cooling for each slot;
	// missing entries at the end are zero. They matter for prefixes only. If
	// AssignedPerSlot is nil, policies assume that pods are packed into as few
	// slots as possible. If only CoolingPerSlot is nil, they assume that each
	// cooling address blocks a different slot, so that no slot with a cooling
	// address is released.
	AssignedPerSlot, CoolingPerSlot []int
	// Age is the time since the ENI was attached.
	Age time.Duration
}

// Demand counts the pods of the node that have no address.
type Demand struct {
	// Waiting counts the pods with a CNI ADD that waits for an address now.
	Waiting int
	// Bound counts the pods that the scheduler has bound to the node and that
	// have no address yet, including the waiting ones. It is zero if the caller
	// does not know them.
	Bound int
}

// Pending returns the number of pods known to need an address: the larger of the
// two counts, because a waiting pod is also a bound one.
func (d Demand) Pending() int { return max(d.Waiting, d.Bound) }

// Subnet describes the free addresses of the VPC subnet. The zero value means
// unknown.
type Subnet struct {
	// Free counts addresses, FreePrefixes whole aligned /28 blocks. Zero means
	// unknown unless Exhausted is set.
	Free, FreePrefixes int
	// Exhausted means that EC2 recently refused a request for lack of addresses,
	// or that the caller declares the subnet short. Growth beyond what pods need
	// now then takes addresses from other nodes.
	Exhausted bool
}

// Supply is the state of a pool in addresses, summed over the ENIs for pods.
type Supply struct {
	// Unit is the number of addresses of one slot, at least 1.
	Unit int
	// Total counts the addresses held and pending, Pending those that a call in
	// flight is assigning.
	Total, Pending int
	// Assigned counts the addresses in use, Cooling those in their cooldown.
	Assigned, Cooling int
	// Slots counts the slots held. FreeSlots counts those without an assigned or
	// cooling address, EmptySlots those without an assigned one.
	Slots, FreeSlots, EmptySlots int
	// Room is the number of slots that existing ENIs can still take, NewENIs the
	// number of ENIs that the card can still have.
	Room, NewENIs int
}

// Usable returns the number of addresses that serve a pod now or as soon as a
// call in flight ends: pending addresses count, cooling ones do not.
func (s Supply) Usable() int { return s.Total - s.Cooling }

// Free returns the number of usable addresses that no pod has.
func (s Supply) Free() int { return s.Total - s.Cooling - s.Assigned }

// Supply returns the sums over the ENIs for pods.
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

// since returns the time from t to s.Now, or zero if t is the zero time.
func (s *Snapshot) since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return s.Now.Sub(t)
}

// room returns the number of slots that e can still take.
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

// idleSlots counts the slots without an assigned address (empty), and the slots
// with neither an assigned nor a cooling address (free).
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
