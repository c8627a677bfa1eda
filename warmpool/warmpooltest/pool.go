// SPDX-License-Identifier: Apache-2.0

package warmpooltest

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// Pool is a model of a node's pool in which decisions take effect at once. A pod
// gets an address of the first ENI with a free address, and there of the fullest
// slot, as in package ipam.
type Pool struct {
	Now    time.Time
	Card   int
	Limits warmpool.Limits
	Subnet warmpool.Subnet
	// Waiting counts the pods that wait for an address.
	Waiting int
	// Calls counts the actions carried out, by operation.
	Calls map[warmpool.Op]int

	enis   []poolENI
	memory warmpool.Memory
	nextID int
}

type poolENI struct {
	id            string
	primary       bool
	noPods        bool
	full          bool // EC2 refuses more slots
	attached      time.Time
	used, cooling []int // by slot
}

// NewPool returns the pool of a node with a primary ENI without slots.
func NewPool(limits warmpool.Limits) *Pool {
	p := &Pool{
		Now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Limits: limits,
		Calls:  map[warmpool.Op]int{},
	}
	p.AddENI(0)
	return p
}

// AddENI adds an ENI with the given number of free slots. The first ENI is the
// primary.
func (p *Pool) AddENI(slots int) {
	p.enis = append(p.enis, poolENI{id: fmt.Sprintf("eni-%d", p.nextID), primary: p.nextID == 0, attached: p.Now})
	p.enis[len(p.enis)-1].fill(slots)
	p.nextID++
}

// fill adds free slots.
func (e *poolENI) fill(slots int) {
	e.used = append(e.used, make([]int, slots)...)
	e.cooling = append(e.cooling, make([]int, slots)...)
}

// pods counts the pods, including waiting ones.
func (p *Pool) pods() int {
	n := p.Waiting
	for _, e := range p.enis {
		n += sum(e.used)
	}
	return n
}

func (p *Pool) unit() int { return max(1, p.Limits.AddressesPerSlot) }

// AddPod adds a pod and gives it an address. It returns false if the pod has to
// wait.
func (p *Pool) AddPod() bool {
	for i := range p.enis {
		e := &p.enis[i]
		if e.noPods {
			continue
		}
		best := -1
		for s := range e.used {
			if e.used[s]+e.cooling[s] < p.unit() && (best < 0 || e.used[s] > e.used[best]) {
				best = s
			}
		}
		if best >= 0 {
			e.used[best]++
			return true
		}
	}
	p.Waiting++
	return false
}

// removePod removes a pod from the given ENI and slot, if the slot has one. Its address
// cools until cool is called.
func (p *Pool) removePod(eni, slot int) {
	if eni >= len(p.enis) || slot >= len(p.enis[eni].used) || p.enis[eni].used[slot] == 0 {
		return
	}
	p.enis[eni].used[slot]--
	p.enis[eni].cooling[slot]++
}

// cool ends the cooldown of all addresses and serves waiting pods.
func (p *Pool) cool() {
	for i := range p.enis {
		clear(p.enis[i].cooling)
	}
	p.serve()
}

func (p *Pool) serve() {
	for n := p.Waiting; n > 0; n-- {
		p.Waiting--
		if !p.AddPod() {
			return
		}
	}
}

// Snapshot returns the input of a policy.
func (p *Pool) Snapshot() warmpool.Snapshot {
	s := warmpool.Snapshot{
		Now: p.Now, Card: p.Card, Limits: p.Limits, Subnet: p.Subnet, Memory: p.memory,
		Demand: warmpool.Demand{Waiting: p.Waiting},
	}
	for _, e := range p.enis {
		s.ENIs = append(s.ENIs, warmpool.ENI{
			ID: e.id, Primary: e.primary, NoPods: e.noPods, Full: e.full, Slots: len(e.used), Addresses: len(e.used) * p.unit(),
			Assigned: sum(e.used), Cooling: sum(e.cooling), Age: p.Now.Sub(e.attached),
			AssignedPerSlot: slices.Clone(e.used), CoolingPerSlot: slices.Clone(e.cooling),
		})
	}
	return s
}

// Apply carries a decision out and serves waiting pods. An impossible action is an
// error.
func (p *Pool) Apply(d warmpool.Decision) error {
	p.memory = d.Memory
	for _, a := range d.Actions {
		if err := p.act(a); err != nil {
			return fmt.Errorf("%s %d slots on %q (%s): %w", a.Op, a.N, a.ENI, a.Explanation, err)
		}
		p.Calls[a.Op]++
	}
	p.serve()
	return nil
}

func (p *Pool) act(a warmpool.Action) error {
	if a.Op == warmpool.OpCreate {
		if len(p.enis) >= p.Limits.MaxENIs {
			return fmt.Errorf("the card has %d ENIs, its limit", p.Limits.MaxENIs)
		}
		if a.N > p.Limits.SlotsPerENI {
			return fmt.Errorf("an ENI has at most %d slots", p.Limits.SlotsPerENI)
		}
		p.AddENI(a.N)
		return nil
	}
	i := slices.IndexFunc(p.enis, func(e poolENI) bool { return e.id == a.ENI })
	if i < 0 {
		return fmt.Errorf("no ENI has this ID")
	}
	e := &p.enis[i]
	switch a.Op {
	case warmpool.OpAssign:
		if e.full {
			return fmt.Errorf("EC2 refuses more slots on this ENI")
		}
		if len(e.used)+a.N > p.Limits.SlotsPerENI {
			return fmt.Errorf("an ENI has at most %d slots, this one has %d", p.Limits.SlotsPerENI, len(e.used))
		}
		e.fill(a.N)
	case warmpool.OpUnassign:
		return e.unassign(a.N)
	case warmpool.OpDelete:
		if e.primary || sum(e.used)+sum(e.cooling) > 0 {
			return fmt.Errorf("the ENI is the primary, or has %d assigned and %d cooling addresses", sum(e.used), sum(e.cooling))
		}
		p.enis = slices.Delete(p.enis, i, i+1)
	default:
		return fmt.Errorf("unknown operation")
	}
	return nil
}

func (e *poolENI) unassign(n int) error {
	for s := len(e.used) - 1; s >= 0 && n > 0; s-- {
		if e.used[s] == 0 && e.cooling[s] == 0 {
			e.used, e.cooling = slices.Delete(e.used, s, s+1), slices.Delete(e.cooling, s, s+1)
			n--
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of these slots are not free", n)
	}
	return nil
}

// quietPeriod is how long a settled pool has had no action.
const quietPeriod = 2 * time.Hour

// Settle plans and applies decisions until the pool is settled. When a decision has
// no actions, Settle moves the clock forward by its Next. The pool is settled when
// Next is zero, or when there was no action for two hours. Settle reports whether
// the pool has settled within the given number of decisions.
func (p *Pool) Settle(policy warmpool.Policy, decisions int) (bool, error) {
	last := p.Now
	for range decisions {
		d := warmpool.Plan(policy, p.Snapshot())
		if err := p.Apply(d); err != nil {
			return false, err
		}
		if len(d.Actions) > 0 {
			p.Now = p.Now.Add(time.Second)
			last = p.Now
			continue
		}
		if d.Next == 0 || p.Now.Sub(last) >= quietPeriod {
			return true, nil
		}
		p.Now = p.Now.Add(d.Next)
	}
	return false, nil
}

func sum(v []int) int {
	n := 0
	for _, x := range v {
		n += x
	}
	return n
}
