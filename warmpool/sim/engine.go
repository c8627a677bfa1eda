// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// epoch is what the simulation's zero is for policies: a Monday.
var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

type engine struct {
	cfg Config
	// policy is what the agent makes of cfg.Policy.
	policy  warmpool.Policy
	trace   Trace
	rng     *rand.Rand
	now     time.Duration
	nodes   []node
	queue   queue
	cooling fifo
	subnet  *subnet
	buckets map[call]*bucket
	m       *metrics
	// scratch is reused for each snapshot; policies must not keep it.
	scratch []warmpool.ENI
	perSlot []int
}

func newEngine(c Config, t Trace) *engine {
	e := &engine{
		cfg: c, policy: warmpool.AgentPolicy(c.Policy), trace: t,
		rng:     rand.New(rand.NewPCG(c.Seed, 0xec2)),
		nodes:   make([]node, t.Nodes),
		buckets: map[call]*bucket{},
	}
	e.subnet = newSubnet(c.Subnet, e.rng)
	e.m = newMetrics(c, t)
	for i := range e.nodes {
		n := &e.nodes[i]
		n.id = i
		n.enis = append(n.enis, &eni{id: "eni-0", primary: true, block: e.subnet.take(1)})
		n.nextENI = 1
		n.lookAt = 0
		e.push(0, i, dueLook)
	}
	return e
}

// run feeds the trace and lets everything else happen in between.
func (e *engine) run(ctx context.Context, t Trace) error {
	count := 0
	for ev := range t.Events {
		if count++; count%8192 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.cfg.Progress != nil {
				e.cfg.Progress(e.now)
			}
		}
		if ev.At < e.now || ev.Node < 0 || ev.Node >= len(e.nodes) {
			return fmt.Errorf("sim: %w: event at %v on node %d, after %v", ErrTrace, ev.At, ev.Node, e.now)
		}
		if ev.At > t.Horizon {
			break
		}
		e.advance(ev.At)
		if err := e.pod(ev); err != nil {
			return err
		}
	}
	e.advance(t.Horizon)
	e.finish()
	return ctx.Err()
}

// advance lets happen what is due until then.
func (e *engine) advance(until time.Duration) {
	for {
		at := e.queue.next()
		if c := e.cooling.next(); c < at {
			if c > until {
				break
			}
			e.tick(c)
			e.cooled(e.cooling.pop())
			continue
		}
		if at > until {
			break
		}
		x := e.queue.pop()
		e.tick(x.at)
		e.handle(x)
	}
	e.tick(until)
}

// tick moves the clock, and the areas below the curves with it.
func (e *engine) tick(at time.Duration) {
	e.m.advance(e.now, at)
	e.now = at
}

const never = time.Duration(math.MaxInt64)

// kind is what is due in the queue.
type kind uint8

const (
	dueLook kind = iota // decide again
	dueStep             // go on with the operation
	dueAdd              // a pod's ADD comes
)

func (e *engine) push(at time.Duration, node int, k kind) {
	e.queue.push(due{at: at, node: int32(node), kind: k})
}

func (e *engine) handle(x due) {
	e.m.events++
	n := &e.nodes[x.node]
	switch x.kind {
	case dueLook:
		if n.lookAt != x.at {
			return
		}
		n.lookAt = never
		e.decide(n)
	case dueStep:
		e.step(n)
	case dueAdd:
		if p := &n.pods[x.pod]; p.state == announced && p.generation == x.generation {
			n.bound--
			e.add(n, int(x.pod))
		}
	}
}

// pod is an event of the trace.
func (e *engine) pod(ev Event) error {
	e.m.events++
	n := &e.nodes[ev.Node]
	if ev.Delete {
		return e.remove(n, ev)
	}
	for ev.Pod >= len(n.pods) {
		n.pods = append(n.pods, pod{})
	}
	p := &n.pods[ev.Pod]
	if p.state != gone {
		return fmt.Errorf("sim: %w: pod %d comes to node %d twice", ErrTrace, ev.Pod, ev.Node)
	}
	p.generation++
	if e.cfg.Lead > 0 {
		p.state = announced
		n.bound++
		e.queue.push(due{at: e.now + e.cfg.Lead, node: int32(ev.Node), kind: dueAdd, pod: int32(ev.Pod), generation: p.generation})
		e.changed(n)
		return nil
	}
	e.add(n, ev.Pod)
	return nil
}
