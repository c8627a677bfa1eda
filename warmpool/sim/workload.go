// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// Workload describes a generated trace.
type Workload struct {
	// Shape is one of the names of Shapes.
	Shape string
	// Nodes is the number of nodes. Zero means 10.
	Nodes int
	// Pods is the usual number of pods of each node. Zero means 25.
	Pods int
	// Horizon is the length of the trace. Zero means one day.
	Horizon time.Duration
	Seed    uint64
}

// shapes lists the workloads.
var shapes = []struct {
	name, doc string
	// from is the start of the measured time.
	from func(horizon time.Duration) time.Duration
	step step
}{
	{"steady", "Pods run for 12 h on average; a few are replaced each minute.", afterFill, (*generator).steady},
	{"diurnal", "40 % of the pods at midnight, 100 % at noon; pods run for 2 h on average.", afterFill, (*generator).diurnal},
	{"cron", "60 % steady pods. Every 5 minutes 10 jobs per node start at once, every hour 16; they run for 1 to 2.5 minutes.", afterFill, (*generator).cron},
	{"rollout", "Every 30 minutes a fifth of all pods is replaced in waves over 5 minutes; the new pod starts before the old one stops.", afterFill, (*generator).rollout},
	{"churn", "80 % steady pods, and on average 6 short pods per node, which start at random and run for 5 minutes on average.", afterFill, (*generator).churn},
	{"scale", "From no pods to all pods in 10 minutes and back in 10 minutes, three times.", fromStart, (*generator).scale},
	{"restart", "All nodes restart within a minute, three times; their pods start again 45 to 90 s later.", afterFill, (*generator).restart},
}

// Shapes yields the names and descriptions of the workloads.
func Shapes() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, s := range shapes {
			if !yield(s.name, s.doc) {
				return
			}
		}
	}
}

// fillTime is the time until the nodes have their first pods.
const fillTime = 10 * time.Minute

func afterFill(horizon time.Duration) time.Duration { return min(time.Hour, horizon/4) }

func fromStart(time.Duration) time.Duration { return 0 }

// ErrShape is the error for an unknown workload.
var ErrShape = errors.New("unknown workload shape")

// Trace returns the workload's trace. The same workload gives the same trace.
// An unknown shape is an error that wraps ErrShape.
func (w Workload) Trace() (Trace, error) {
	if w.Nodes < 0 || w.Pods < 0 || w.Horizon < 0 {
		return Trace{}, fmt.Errorf("%w: %d nodes with %d pods for %v, want no negative number", ErrTrace, w.Nodes, w.Pods, w.Horizon)
	}
	w.Nodes, w.Pods = cmp.Or(w.Nodes, 10), cmp.Or(w.Pods, 25)
	w.Horizon = cmp.Or(w.Horizon, 24*time.Hour)
	for _, s := range shapes {
		if s.name == w.Shape {
			return Trace{
				Name: w.Shape, Nodes: w.Nodes, Horizon: w.Horizon, From: s.from(w.Horizon),
				Events: func(yield func(Event) bool) { w.generate(s.step, yield) },
			}, nil
		}
	}
	return Trace{}, fmt.Errorf("%w %q", ErrShape, w.Shape)
}

// step generates the events of one second.
type step = func(*generator, time.Duration)

func (w Workload) generate(next step, yield func(Event) bool) {
	g := &generator{
		Workload: w, rng: rand.New(rand.NewPCG(w.Seed, 0x5eed)),
		nodes: make([]genNode, w.Nodes), ends: map[int64][]podRef{}, starts: map[int64][]int{},
	}
	for t := time.Duration(0); t < w.Horizon; t += time.Second {
		g.events, g.at = g.events[:0], t
		g.runDue(int64(t / time.Second))
		next(g, t)
		for i, ev := range g.events {
			// Spread the events over the second in order.
			ev.At = t + time.Duration(i)*time.Second/time.Duration(len(g.events))
			if !yield(ev) {
				return
			}
		}
	}
}

func (g *generator) steady(time.Duration) { g.maintain(g.total(), 12*time.Hour) }

func (g *generator) diurnal(t time.Duration) {
	day := (1 - math.Cos(2*math.Pi*t.Hours()/24)) / 2
	g.maintain(g.total()*(0.4+0.6*day), 2*time.Hour)
}

func (g *generator) cron(t time.Duration) {
	const length = 3 * time.Second
	g.maintain(g.total()*0.6, 12*time.Hour)
	if t < fillTime || t%(5*time.Minute) >= length {
		return
	}
	jobs := 10
	if t%time.Hour < length {
		jobs = 16
	}
	for range g.Nodes * jobs / int(length.Seconds()) {
		g.scheduleEnd(g.add(), time.Minute+time.Duration(g.rng.Int64N(int64(90*time.Second))))
	}
}

func (g *generator) churn(t time.Duration) {
	const life = 5 * time.Minute
	g.maintain(g.total()*0.8, 12*time.Hour)
	if t < fillTime {
		return
	}
	for range g.poisson(6 * float64(g.Nodes) / life.Seconds()) {
		g.scheduleEnd(g.add(), time.Duration(g.rng.ExpFloat64()*float64(life)))
	}
}

func (g *generator) rollout(t time.Duration) {
	const every, length, wave = 30 * time.Minute, 5 * time.Minute, 10 * time.Second
	g.maintain(g.total()*0.8, 12*time.Hour)
	if t < every || t%every >= length || t%wave != 0 {
		return
	}
	for range g.poisson(g.total() / 5 / float64(length/wave)) {
		if old, ok := g.random(); ok {
			g.add()
			g.scheduleEnd(old, 20*time.Second)
		}
	}
}

func (g *generator) scale(t time.Duration) {
	pods := g.total()
	if third := g.Horizon / 3; t%third >= third/2 {
		pods = 0
	}
	g.maintain(pods, 12*time.Hour)
}

func (g *generator) restart(t time.Duration) {
	every := g.Horizon / 4
	g.maintain(g.total(), 12*time.Hour)
	if t < every || t%every >= time.Minute {
		return
	}
	for node := int(t % every / time.Second); node < g.Nodes; node += 60 {
		g.restartNode(node)
	}
}
