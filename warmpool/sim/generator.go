// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// generator generates the events of a workload, one second after another.
type generator struct {
	Workload
	rng   *rand.Rand
	at    time.Duration
	nodes []genNode
	live  []livePod
	// ends holds the pods with a scheduled end, and starts the nodes on which a
	// pod will start, by second.
	ends   map[int64][]podRef
	starts map[int64][]int
	// ending counts the live pods with a scheduled end, starting those in starts.
	ending, starting int
	// carry is the fraction of a pod left over from the rate of filling.
	carry float64
	// events holds the events of this second in order.
	events []Event
}

type genNode struct {
	index []int // into live, by pod number
	free  []int // pod numbers
	live  int
}

type livePod struct {
	podRef
	ending bool
}

type podRef struct {
	node, pod int
	// created distinguishes successive pods with the same number.
	created time.Duration
}

const noPod = -1

// total returns the usual number of pods of the fleet.
func (g *generator) total() float64 { return float64(g.Nodes * g.Pods) }

// runDue runs the ends and starts scheduled for the second.
func (g *generator) runDue(second int64) {
	for _, ref := range g.ends[second] {
		g.end(ref)
	}
	for _, node := range g.starts[second] {
		g.starting--
		g.addTo(node)
	}
	delete(g.ends, second)
	delete(g.starts, second)
}

// add starts a pod on the one of two random nodes with fewer pods.
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
	ref := podRef{node: node, pod: pod, created: g.at}
	n.index[pod] = len(g.live)
	n.live++
	g.live = append(g.live, livePod{podRef: ref})
	g.events = append(g.events, Event{Node: node, Pod: pod})
	return ref
}

// find returns the index of a pod in live, if it is still there.
func (g *generator) find(ref podRef) (int, bool) {
	i := g.nodes[ref.node].index[ref.pod]
	return i, i != noPod && g.live[i].podRef == ref
}

// end stops a pod if it is still live.
func (g *generator) end(ref podRef) {
	i, ok := g.find(ref)
	if !ok {
		return
	}
	if g.live[i].ending {
		g.ending--
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

// scheduleEnd schedules the end of a pod after d, but at least one second.
func (g *generator) scheduleEnd(ref podRef, d time.Duration) {
	if i, ok := g.find(ref); ok && !g.live[i].ending {
		g.live[i].ending = true
		g.ending++
	}
	second := int64((g.at + max(d, time.Second)) / time.Second)
	g.ends[second] = append(g.ends[second], ref)
}

// random returns a random live pod without a scheduled end.
func (g *generator) random() (podRef, bool) {
	for range 16 {
		if len(g.live) == 0 {
			break
		}
		if p := g.live[g.rng.IntN(len(g.live))]; !p.ending {
			return p.podRef, true
		}
	}
	return podRef{}, false
}

// poisson returns a random number with the Poisson distribution of the given mean.
// For large means it uses the normal distribution.
func (g *generator) poisson(mean float64) int {
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

// maintain keeps the number of pods without a scheduled end near the given number,
// with the given mean lifetime. The number changes at most by total pods in
// fillTime.
func (g *generator) maintain(pods float64, life time.Duration) {
	for range g.poisson(pods / life.Seconds()) {
		if ref, ok := g.random(); ok {
			g.end(ref)
		}
	}
	g.carry += g.total() / fillTime.Seconds()
	for ; g.carry >= 1; g.carry-- {
		switch long := float64(len(g.live) - g.ending + g.starting); {
		case long+1 <= pods:
			g.add()
		case long-1 >= pods:
			if ref, ok := g.random(); ok {
				g.end(ref)
			}
		}
	}
}

// restartNode stops all pods of a node, and starts as many 45 to 90 s later.
func (g *generator) restartNode(node int) {
	for _, i := range g.nodes[node].index {
		if i == noPod {
			continue
		}
		g.end(g.live[i].podRef)
		second := int64(g.at/time.Second) + 45 + g.rng.Int64N(45)
		g.starts[second] = append(g.starts[second], node)
		g.starting++
	}
}
