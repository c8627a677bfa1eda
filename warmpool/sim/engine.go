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

// epoch is the time of day, for policies, at which the simulation starts. It is a
// Monday.
var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

type engine struct {
	cfg Config
	// policy is warmpool.AgentPolicy(cfg.Policy).
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
	// changes are the nodes whose agents decide when all events of this moment are done.
	changes []*node
	// scratch and perSlot are reused for each snapshot.
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
		n.decideAt = 0
		e.push(0, i, dueDecide)
	}
	return e
}

// run handles the events of the trace, and between them all other events.
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
			return fmt.Errorf("sim: %w: event at %v on node %d of %d, after an event at %v", ErrTrace, ev.At, ev.Node, len(e.nodes), e.now)
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

// advance handles all events that are due until the given time.
func (e *engine) advance(until time.Duration) {
	for {
		at := e.queue.next()
		if len(e.changes) > 0 && min(at, e.cooling.next(), until) > e.now {
			e.decideChanged()
			continue
		}
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

// tick moves the clock and updates the metrics.
func (e *engine) tick(at time.Duration) {
	e.m.advance(e.now, at)
	e.now = at
}

const never = time.Duration(math.MaxInt64)

// kind is the kind of an entry of the queue.
type kind uint8

const (
	dueDecide kind = iota // the agent decides again
	dueStep               // the operation of the node continues
	dueAdd                // the ADD of a pod arrives
)

func (e *engine) push(at time.Duration, node int, k kind) {
	e.queue.push(due{at: at, node: int32(node), kind: k})
}

func (e *engine) handle(x due) {
	e.m.events++
	n := &e.nodes[x.node]
	switch x.kind {
	case dueDecide:
		if n.decideAt != x.at {
			return
		}
		n.decideAt = never
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

// pod handles an event of the trace.
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
	if p.state != absent {
		return fmt.Errorf("sim: %w: pod %d starts on node %d twice", ErrTrace, ev.Pod, ev.Node)
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
