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

// callsOf lists the calls of each operation in order.
var callsOf = map[warmpool.Op][]call{
	warmpool.OpAssign:   {assignAddresses},
	warmpool.OpCreate:   {createENI, attachENI, modifyENI},
	warmpool.OpUnassign: {unassignAddresses},
	warmpool.OpDelete:   {detachENI, describeENIs, deleteENI},
}

// growthRetryDelay is how long an agent waits after EC2 has refused a single slot.
const growthRetryDelay = 10 * time.Second

// operation is an action that is being carried out.
type operation struct {
	warmpool.Action
	calls []call
	next  int
	// sent is set while a call is in flight, failed if the subnet has too few
	// addresses for it. tries counts the attempts of the call.
	sent, failed bool
	tries        int
	// eni is the ENI to change, slots are the slots that it gains or loses.
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

// latency returns a random time with the given median.
func (e *engine) latency(median time.Duration) time.Duration {
	return time.Duration(float64(median) * math.Exp(e.cfg.EC2.Sigma*e.rng.NormFloat64()))
}

// start starts the next action of the plan that is still possible.
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

// prepare removes the slots that will be released from the pool, so that no pod
// gets them. It reports whether the operation is still possible.
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

// drain removes up to n wholly free slots, the longest idle first, and returns
// them.
func (x *eni) drain(n int) []*slot {
	var idle []*slot
	for _, s := range x.slots {
		if s.used+s.cool == 0 {
			idle = append(idle, s)
		}
	}
	slices.SortStableFunc(idle, func(a, b *slot) int { return int(a.idleSince - b.idleSince) })
	idle = idle[:min(n, len(idle))]
	for _, s := range idle {
		s.eni = nil
	}
	x.slots = slices.DeleteFunc(x.slots, func(s *slot) bool { return s.eni == nil })
	return idle
}

// send makes the next call of the operation, or schedules a retry if the bucket of
// the account is empty.
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

// takeSlots takes all addresses of an operation from the subnet, or none.
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
	e.m.held += op.N*unit + e.ownAddresses(op)
	return true
}

// ownAddresses counts the primary private IP of an ENI that is created or deleted.
func (e *engine) ownAddresses(op *operation) int {
	if op.Op == warmpool.OpCreate || op.Op == warmpool.OpDelete {
		return 1
	}
	return 0
}

// step continues the operation after a call has ended or a back-off has passed.
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

// refused retries the operation with a single slot. If that was refused too, the
// node treats the subnet as exhausted.
func (e *engine) refused(n *node) {
	if n.op.N > 1 {
		n.op.N = 1
		e.send(n)
		return
	}
	n.op, n.plan = nil, nil
	n.exhaustedUntil = e.now + e.cfg.Subnet.Backoff
	n.noGrowthUntil = e.now + growthRetryDelay
	e.m.refuse(e.now)
	e.changed(n)
}

// finished applies the effect of an operation.
func (e *engine) finished(n *node, op *operation) {
	unit := e.cfg.Limits.AddressesPerSlot
	switch op.Op {
	case warmpool.OpCreate:
		op.eni.id, op.eni.created = "eni-"+strconv.Itoa(n.nextENI), e.now
		n.nextENI++
		n.enis = append(n.enis, op.eni)
		e.m.churn(e.now)
		fallthrough
	case warmpool.OpAssign:
		for _, s := range op.slots {
			s.eni, s.idleSince = op.eni, e.now
		}
		op.eni.slots = append(op.eni.slots, op.slots...)
		n.hadAddress = n.hadAddress || len(op.eni.slots) > 0
	case warmpool.OpDelete:
		e.subnet.give(op.eni.block, 1)
		e.m.churn(e.now)
		fallthrough
	case warmpool.OpUnassign:
		for _, s := range op.slots {
			e.subnet.give(s.block, unit)
			e.m.gaveBack(e.now, e.now-s.idleSince)
		}
		e.m.held -= len(op.slots)*unit + e.ownAddresses(op)
	}
}
