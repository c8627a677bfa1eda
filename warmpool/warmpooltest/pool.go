// SPDX-License-Identifier: Apache-2.0

package warmpooltest

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// Pool is a node's pool as a plain model: pods come and go, decisions take
// effect at once. It packs: pods go to the first ENI with a free address and
// there to the fullest slot, as the pool of package ipam does.
type Pool struct {
	Now    time.Time
	Card   int
	Limits warmpool.Limits
	Subnet warmpool.Subnet
	// Waiting counts pods that found no address.
	Waiting int
	// Calls counts the actions that were carried out.
	Calls map[warmpool.Op]int

	enis   []poolENI
	memory warmpool.Memory
	nextID int
}

type poolENI struct {
	id            string
	primary       bool
	noPods        bool
	full          bool // EC2 takes no more slots
	born          time.Time
	used, cooling []int // by slot
}

// NewPool returns a node with its primary ENI and nothing else.
func NewPool(limits warmpool.Limits) *Pool {
	p := &Pool{
		Now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Limits: limits,
		Calls:  map[warmpool.Op]int{},
	}
	p.AddENI(0)
	return p
}

// AddENI adds an ENI with so many free slots. The first one is the primary.
func (p *Pool) AddENI(slots int) {
	p.enis = append(p.enis, poolENI{id: fmt.Sprintf("eni-%d", p.nextID), primary: p.nextID == 0, born: p.Now})
	p.enis[len(p.enis)-1].fill(slots)
	p.nextID++
}

// fill adds free slots.
func (e *poolENI) fill(slots int) {
	e.used = append(e.used, make([]int, slots)...)
	e.cooling = append(e.cooling, make([]int, slots)...)
}

// pods counts the pods, those that wait included.
func (p *Pool) pods() int {
	n := p.Waiting
	for _, e := range p.enis {
		n += sum(e.used)
	}
	return n
}

func (p *Pool) unit() int { return max(1, p.Limits.AddressesPerSlot) }

// AddPod gives a pod an address, or lets it wait and returns false.
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

// RemovePod takes a pod away: from the given ENI and slot if there is one. Its
// address cools until Cool is called.
func (p *Pool) RemovePod(eni, slot int) bool {
	if eni >= len(p.enis) || slot >= len(p.enis[eni].used) || p.enis[eni].used[slot] == 0 {
		return false
	}
	p.enis[eni].used[slot]--
	p.enis[eni].cooling[slot]++
	return true
}

// Cool ends the cooldown of all addresses and serves pods that wait.
func (p *Pool) Cool() {
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

// Snapshot is what a policy sees.
func (p *Pool) Snapshot() warmpool.Snapshot {
	s := warmpool.Snapshot{
		Now: p.Now, Card: p.Card, Limits: p.Limits, Subnet: p.Subnet, Memory: p.memory,
		Demand: warmpool.Demand{Waiting: p.Waiting},
	}
	for _, e := range p.enis {
		s.ENIs = append(s.ENIs, warmpool.ENI{
			ID: e.id, Primary: e.primary, NoPods: e.noPods, Full: e.full, Slots: len(e.used), Addresses: len(e.used) * p.unit(),
			Assigned: sum(e.used), Cooling: sum(e.cooling), Age: p.Now.Sub(e.born),
			AssignedPerSlot: slices.Clone(e.used), CoolingPerSlot: slices.Clone(e.cooling),
		})
	}
	return s
}

// Apply carries a decision out and serves pods that wait. An action that no
// executor could carry out is an error.
func (p *Pool) Apply(d warmpool.Decision) error {
	p.memory = d.Memory
	for _, a := range d.Actions {
		if err := p.act(a); err != nil {
			return fmt.Errorf("%s %d slots on %q (%s): %w", a.Op, a.N, a.ENI, a.Reason, err)
		}
		p.Calls[a.Op]++
	}
	p.serve()
	return nil
}

func (p *Pool) act(a warmpool.Action) error {
	if a.Op == warmpool.OpCreate {
		if len(p.enis) >= p.Limits.MaxENIs {
			return fmt.Errorf("the card has all of its %d ENIs", p.Limits.MaxENIs)
		}
		if a.N > p.Limits.SlotsPerENI {
			return fmt.Errorf("an ENI has %d slots", p.Limits.SlotsPerENI)
		}
		p.AddENI(a.N)
		return nil
	}
	i := slices.IndexFunc(p.enis, func(e poolENI) bool { return e.id == a.ENI })
	if i < 0 {
		return fmt.Errorf("no such ENI")
	}
	e := &p.enis[i]
	switch a.Op {
	case warmpool.OpAssign:
		if e.full {
			return fmt.Errorf("EC2 takes no more slots on it")
		}
		if len(e.used)+a.N > p.Limits.SlotsPerENI {
			return fmt.Errorf("an ENI has %d slots, this one has %d filled", p.Limits.SlotsPerENI, len(e.used))
		}
		e.fill(a.N)
	case warmpool.OpUnassign:
		return e.unassign(a.N)
	case warmpool.OpDelete:
		if e.primary || sum(e.used)+sum(e.cooling) > 0 {
			return fmt.Errorf("it is the primary, or has %d assigned and %d cooling addresses", sum(e.used), sum(e.cooling))
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
		return fmt.Errorf("%d of the slots are not free", n)
	}
	return nil
}

// quiet is how long nothing must happen for a pool to be at rest.
const quiet = 2 * time.Hour

// Settle plans and applies until nothing is left to do, moving the clock to
// the policy's next look whenever it waits. It reports whether the pool came to
// rest within the number of looks: the policy asks for no other look, or has
// done nothing for two hours.
func (p *Pool) Settle(policy warmpool.Policy, looks int) (bool, error) {
	last := p.Now
	for range looks {
		d := warmpool.Plan(policy, p.Snapshot())
		if err := p.Apply(d); err != nil {
			return false, err
		}
		if len(d.Actions) > 0 {
			p.Now = p.Now.Add(time.Second)
			last = p.Now
			continue
		}
		if d.Next == 0 || p.Now.Sub(last) >= quiet {
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
