// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// call is an EC2 API action.
type call string

const (
	assignAddresses   call = "AssignPrivateIpAddresses"
	unassignAddresses call = "UnassignPrivateIpAddresses"
	createENI         call = "CreateNetworkInterface"
	attachENI         call = "AttachNetworkInterface"
	modifyENI         call = "ModifyNetworkInterfaceAttribute"
	detachENI         call = "DetachNetworkInterface"
	describeENIs      call = "DescribeNetworkInterfaces"
	deleteENI         call = "DeleteNetworkInterface"
)

// callsOf are the calls that an operation makes, in order.
var callsOf = map[warmpool.Op][]call{
	warmpool.OpAssign:   {assignAddresses},
	warmpool.OpCreate:   {createENI, attachENI, modifyENI},
	warmpool.OpUnassign: {unassignAddresses},
	warmpool.OpDelete:   {detachENI, describeENIs, deleteENI},
}

// askAgain is how long an agent waits after the subnet refused a single slot.
const askAgain = 10 * time.Second

// operation is an action under way.
type operation struct {
	warmpool.Action
	calls []call
	next  int
	// sent says that a call is on its way; failed that the subnet refused it;
	// tries counts the attempts of the same call.
	sent, failed bool
	tries        int
	// eni is the one to act on, slots are those that come or go.
	eni   *eni
	slots []*slot
}

// bucket is the token bucket of one API action of the account.
type bucket struct {
	tokens, burst, rate float64
	at                  time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	b.tokens = min(b.burst, b.tokens+b.rate*(now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (e *engine) bucket(c call) *bucket {
	b := e.buckets[c]
	if b == nil {
		b = &bucket{burst: e.cfg.EC2.Burst, rate: e.cfg.EC2.Rate}
		if c == describeENIs {
			b.burst, b.rate = 2*b.burst, 2*b.rate
		}
		b.tokens = b.burst
		e.buckets[c] = b
	}
	return b
}

// latency draws a time around its median.
func (e *engine) latency(median time.Duration) time.Duration {
	return time.Duration(float64(median) * math.Exp(e.cfg.EC2.Sigma*e.rng.NormFloat64()))
}

// start takes the next action of the plan that still makes sense.
func (e *engine) start(n *node) {
	for len(n.plan) > 0 {
		a := n.plan[0]
		n.plan = n.plan[1:]
		op := &operation{Action: a, calls: callsOf[a.Op]}
		if !e.prepare(n, op) {
			continue
		}
		n.op = op
		e.send(n)
		return
	}
}

// prepare takes what goes away out of the pool, so that no pod gets it.
func (e *engine) prepare(n *node, op *operation) bool {
	if op.Op == warmpool.OpCreate {
		return true
	}
	i := slices.IndexFunc(n.enis, func(x *eni) bool { return x.id == op.ENI })
	if i < 0 {
		return false
	}
	op.eni = n.enis[i]
	switch op.Op {
	case warmpool.OpUnassign:
		op.slots = op.eni.drain(op.N)
		return len(op.slots) > 0
	case warmpool.OpDelete:
		if op.eni.assigned+op.eni.cooling > 0 {
			return false
		}
		op.slots, op.eni.slots = op.eni.slots, nil
		n.enis = slices.Delete(n.enis, i, i+1)
	}
	return true
}

// drain takes up to n wholly free slots out, the longest idle first.
func (x *eni) drain(n int) []*slot {
	var idle []*slot
	for _, s := range x.slots {
		if s.used+s.cool == 0 {
			idle = append(idle, s)
		}
	}
	slices.SortStableFunc(idle, func(a, b *slot) int { return int(a.idle - b.idle) })
	idle = idle[:min(n, len(idle))]
	for _, s := range idle {
		s.eni = nil
	}
	x.slots = slices.DeleteFunc(x.slots, func(s *slot) bool { return s.eni == nil })
	return idle
}

// send makes the operation's next call, or tries again later if the account's
// bucket is empty.
func (e *engine) send(n *node) {
	op := n.op
	c := op.calls[op.next]
	e.m.call(c, e.now)
	op.tries++
	if !e.bucket(c).take(e.now) {
		e.m.throttle(e.now)
		backoff := time.Duration(float64(500*time.Millisecond) * math.Pow(2, float64(min(op.tries-1, 5))))
		e.push(e.now+backoff/2+time.Duration(e.rng.Int64N(int64(backoff))), n.id, dueStep)
		return
	}
	op.sent, op.tries = true, 0
	op.failed = (c == assignAddresses || c == createENI) && !e.takeSlots(op)
	wait := e.latency(e.cfg.EC2.Call)
	switch {
	case op.failed:
	case c == assignAddresses:
		wait += e.latency(e.cfg.EC2.Visible)
	case c == attachENI:
		wait += e.latency(e.cfg.EC2.Attach)
	case c == detachENI:
		wait += e.latency(e.cfg.EC2.Detach)
	}
	e.push(e.now+wait, n.id, dueStep)
}

// takeSlots draws an operation's addresses from the subnet, all or none.
func (e *engine) takeSlots(op *operation) bool {
	unit := e.cfg.Limits.AddressesPerSlot
	own := noBlock
	if op.Op == warmpool.OpCreate {
		if own = e.subnet.take(1); own == noBlock {
			return false
		}
	}
	for range op.N {
		b := e.subnet.take(unit)
		if b == noBlock {
			for _, s := range op.slots {
				e.subnet.give(s.block, unit)
			}
			if op.slots = nil; own != noBlock {
				e.subnet.give(own, 1)
			}
			return false
		}
		op.slots = append(op.slots, &slot{block: b})
	}
	if op.Op == warmpool.OpCreate {
		op.eni = &eni{block: own}
	}
	e.m.held += op.N*unit + e.own(op)
	return true
}

// own counts the address that an ENI takes for itself.
func (e *engine) own(op *operation) int {
	if op.Op == warmpool.OpCreate || op.Op == warmpool.OpDelete {
		return 1
	}
	return 0
}

// step goes on after a call has ended, or when it is time to try again.
func (e *engine) step(n *node) {
	op := n.op
	if !op.sent {
		e.send(n)
		return
	}
	op.sent = false
	if op.failed {
		e.refused(n)
		return
	}
	if op.next++; op.next < len(op.calls) {
		e.send(n)
		return
	}
	e.finished(n, op)
	n.op = nil
	e.serve(n)
	if e.start(n); n.op == nil {
		e.changed(n)
	}
}

// refused tries for a single slot, and after that takes the subnet for empty.
func (e *engine) refused(n *node) {
	if n.op.N > 1 {
		n.op.N = 1
		e.send(n)
		return
	}
	n.op, n.plan = nil, nil
	n.exhausted = e.now + e.cfg.Subnet.Backoff
	n.noGrowth = e.now + askAgain
	e.m.refuse(e.now)
	e.changed(n)
}

// finished is the effect of an operation.
func (e *engine) finished(n *node, op *operation) {
	unit := e.cfg.Limits.AddressesPerSlot
	switch op.Op {
	case warmpool.OpCreate:
		op.eni.id, op.eni.born = "eni-"+strconv.Itoa(n.nextENI), e.now
		n.nextENI++
		n.enis = append(n.enis, op.eni)
		e.m.churn(e.now)
		fallthrough
	case warmpool.OpAssign:
		for _, s := range op.slots {
			s.eni, s.idle = op.eni, e.now
		}
		op.eni.slots = append(op.eni.slots, op.slots...)
		n.proved = n.proved || len(op.eni.slots) > 0
	case warmpool.OpDelete:
		e.subnet.give(op.eni.block, 1)
		e.m.churn(e.now)
		fallthrough
	case warmpool.OpUnassign:
		for _, s := range op.slots {
			e.subnet.give(s.block, unit)
			e.m.gaveBack(e.now, e.now-s.idle)
		}
		e.m.held -= len(op.slots)*unit + e.own(op)
	}
}
