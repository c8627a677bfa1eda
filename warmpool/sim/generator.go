// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// generator makes the events of one second after the other.
type generator struct {
	Workload
	rng   *rand.Rand
	at    time.Duration
	nodes []genNode
	live  []livePod
	// ends are pods whose end is settled, and starts the nodes on which a pod
	// will start, by the second in which it happens.
	ends   map[int64][]podRef
	starts map[int64][]int
	// short counts the live pods whose end is settled, coming those in starts.
	short, coming int
	// carry is the part of a pod that the speed of filling left over.
	carry float64
	// events of this second, in order.
	events []Event
}

type genNode struct {
	index []int // into live, by pod number
	free  []int // pod numbers
	live  int
}

type livePod struct {
	podRef
	short bool
}

type podRef struct {
	node, pod int
	// born tells pods apart that have the same number one after the other.
	born time.Duration
}

const noPod = -1

// total is the usual number of pods of the fleet.
func (g *generator) total() float64 { return float64(g.Nodes * g.Pods) }

// due carries out what was settled for this second.
func (g *generator) due(second int64) {
	for _, ref := range g.ends[second] {
		g.end(ref)
	}
	for _, node := range g.starts[second] {
		g.coming--
		g.addTo(node)
	}
	delete(g.ends, second)
	delete(g.starts, second)
}

// add starts a pod on the emptier of two random nodes.
func (g *generator) add() podRef {
	a, b := g.rng.IntN(g.Nodes), g.rng.IntN(g.Nodes)
	if g.nodes[b].live < g.nodes[a].live {
		a = b
	}
	return g.addTo(a)
}

func (g *generator) addTo(node int) podRef {
	n := &g.nodes[node]
	pod := len(n.index)
	if k := len(n.free); k > 0 {
		pod, n.free = n.free[k-1], n.free[:k-1]
	} else {
		n.index = append(n.index, noPod)
	}
	ref := podRef{node: node, pod: pod, born: g.at}
	n.index[pod] = len(g.live)
	n.live++
	g.live = append(g.live, livePod{podRef: ref})
	g.events = append(g.events, Event{Node: node, Pod: pod})
	return ref
}

// find returns the index of a pod that still lives.
func (g *generator) find(ref podRef) (int, bool) {
	i := g.nodes[ref.node].index[ref.pod]
	return i, i != noPod && g.live[i].podRef == ref
}

// end removes a pod if it still lives.
func (g *generator) end(ref podRef) {
	i, ok := g.find(ref)
	if !ok {
		return
	}
	if g.live[i].short {
		g.short--
	}
	last := g.live[len(g.live)-1]
	g.live[i] = last
	g.nodes[last.node].index[last.pod] = i
	g.live = g.live[:len(g.live)-1]
	n := &g.nodes[ref.node]
	n.index[ref.pod] = noPod
	n.free = append(n.free, ref.pod)
	n.live--
	g.events = append(g.events, Event{Node: ref.node, Pod: ref.pod, Delete: true})
}

// endIn settles when a pod ends.
func (g *generator) endIn(ref podRef, d time.Duration) {
	if i, ok := g.find(ref); ok && !g.live[i].short {
		g.live[i].short = true
		g.short++
	}
	second := int64((g.at + max(d, time.Second)) / time.Second)
	g.ends[second] = append(g.ends[second], ref)
}

// random picks a pod whose end is open.
func (g *generator) random() (podRef, bool) {
	for range 16 {
		if len(g.live) == 0 {
			break
		}
		if p := g.live[g.rng.IntN(len(g.live))]; !p.short {
			return p.podRef, true
		}
	}
	return podRef{}, false
}

// times is how often something happens that happens so often on average: a
// Poisson variate, for large means by the normal distribution.
func (g *generator) times(mean float64) int {
	if mean > 100 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*g.rng.NormFloat64())))
	}
	n, p, limit := 0, 1.0, math.Exp(-mean)
	for {
		if p *= g.rng.Float64(); p <= limit {
			return n
		}
		n++
	}
}

// hold keeps so many pods with an open end, of so long a life on average, and
// moves towards that number no faster than the nodes fill.
func (g *generator) hold(pods float64, life time.Duration) {
	for range g.times(pods / life.Seconds()) {
		if ref, ok := g.random(); ok {
			g.end(ref)
		}
	}
	g.carry += g.total() / fill.Seconds()
	for ; g.carry >= 1; g.carry-- {
		switch long := float64(len(g.live) - g.short + g.coming); {
		case long+1 <= pods:
			g.add()
		case long-1 >= pods:
			if ref, ok := g.random(); ok {
				g.end(ref)
			}
		}
	}
}

// restartNode ends all pods of a node and starts as many a little later.
func (g *generator) restartNode(node int) {
	for _, i := range g.nodes[node].index {
		if i == noPod {
			continue
		}
		g.end(g.live[i].podRef)
		second := int64(g.at/time.Second) + 45 + g.rng.Int64N(45)
		g.starts[second] = append(g.starts[second], node)
		g.coming++
	}
}
