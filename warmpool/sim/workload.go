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

// Workload generates a trace.
type Workload struct {
	// Shape is one of Shapes.
	Shape string
	// Nodes is the size of the fleet. Zero means 10.
	Nodes int
	// Pods is the usual number of pods a node. Zero means 25.
	Pods int
	// Horizon is the length of the trace. Zero means a day.
	Horizon time.Duration
	Seed    uint64
}

// shapes are the workloads that can be generated.
var shapes = []struct {
	name, doc string
	// from is when measuring starts
	from func(horizon time.Duration) time.Duration
	step step
}{
	{"steady", "Pods of long life (12 h); a few are replaced each minute.", afterFill, (*generator).steady},
	{"diurnal", "40 % of the pods by night, 100 % at noon; pods live 2 h.", afterFill, (*generator).diurnal},
	{"cron", "Each 5 minutes jobs come at once, 10 a node, and each hour 16; they run for 1 to 2.5 minutes beside 60 % steady pods.", afterFill, (*generator).cron},
	{"rollout", "Each 30 minutes a fifth of all pods is replaced in waves over 5 minutes, new ones first.", afterFill, (*generator).rollout},
	{"churn", "80 % steady pods, and short ones of 5 minutes that come at random, 6 a node at a time.", afterFill, (*generator).churn},
	{"scale", "From nothing to all pods in 10 minutes, and back in 10 minutes, three times.", fromStart, (*generator).scale},
	{"restart", "Three times all nodes restart within a minute; their pods come back 45 to 90 s later.", afterFill, (*generator).restart},
}

// Shapes yields the names of the workloads and what each does.
func Shapes() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, s := range shapes {
			if !yield(s.name, s.doc) {
				return
			}
		}
	}
}

// fill is how long it takes until the nodes have their first pods.
const fill = 10 * time.Minute

func afterFill(horizon time.Duration) time.Duration { return min(time.Hour, horizon/4) }

func fromStart(time.Duration) time.Duration { return 0 }

// ErrShape is returned for the name of a workload that is not one.
var ErrShape = errors.New("unknown workload shape")

// Trace returns the workload's trace. The same workload gives the same trace.
// An unknown shape is an error that wraps ErrShape.
func (w Workload) Trace() (Trace, error) {
	if w.Nodes < 0 || w.Pods < 0 || w.Horizon < 0 {
		return Trace{}, fmt.Errorf("%w: %d nodes with %d pods for %v", ErrTrace, w.Nodes, w.Pods, w.Horizon)
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

// step adds what happens in one second.
type step = func(*generator, time.Duration)

func (w Workload) generate(next step, yield func(Event) bool) {
	g := &generator{
		Workload: w, rng: rand.New(rand.NewPCG(w.Seed, 0x5eed)),
		nodes: make([]genNode, w.Nodes), ends: map[int64][]podRef{}, starts: map[int64][]int{},
	}
	for t := time.Duration(0); t < w.Horizon; t += time.Second {
		g.events, g.at = g.events[:0], t
		g.due(int64(t / time.Second))
		next(g, t)
		for i, ev := range g.events {
			// Spread over the second, in order.
			ev.At = t + time.Duration(i)*time.Second/time.Duration(len(g.events))
			if !yield(ev) {
				return
			}
		}
	}
}

func (g *generator) steady(time.Duration) { g.hold(g.total(), 12*time.Hour) }

func (g *generator) diurnal(t time.Duration) {
	day := (1 - math.Cos(2*math.Pi*t.Hours()/24)) / 2
	g.hold(g.total()*(0.4+0.6*day), 2*time.Hour)
}

func (g *generator) cron(t time.Duration) {
	const lasts = 3 * time.Second
	g.hold(g.total()*0.6, 12*time.Hour)
	if t < fill || t%(5*time.Minute) >= lasts {
		return
	}
	jobs := 10
	if t%time.Hour < lasts {
		jobs = 16
	}
	for range g.Nodes * jobs / int(lasts.Seconds()) {
		g.endIn(g.add(), time.Minute+time.Duration(g.rng.Int64N(int64(90*time.Second))))
	}
}

func (g *generator) churn(t time.Duration) {
	const life = 5 * time.Minute
	g.hold(g.total()*0.8, 12*time.Hour)
	if t < fill {
		return
	}
	for range g.times(6 * float64(g.Nodes) / life.Seconds()) {
		g.endIn(g.add(), time.Duration(g.rng.ExpFloat64()*float64(life)))
	}
}

func (g *generator) rollout(t time.Duration) {
	const every, lasts, wave = 30 * time.Minute, 5 * time.Minute, 10 * time.Second
	g.hold(g.total()*0.8, 12*time.Hour)
	if t < every || t%every >= lasts || t%wave != 0 {
		return
	}
	for range g.times(g.total() / 5 / float64(lasts/wave)) {
		if old, ok := g.random(); ok {
			g.add()
			g.endIn(old, 20*time.Second)
		}
	}
}

func (g *generator) scale(t time.Duration) {
	pods := g.total()
	if third := g.Horizon / 3; t%third >= third/2 {
		pods = 0
	}
	g.hold(pods, 12*time.Hour)
}

func (g *generator) restart(t time.Duration) {
	every := g.Horizon / 4
	g.hold(g.total(), 12*time.Hour)
	if t < every || t%every >= time.Minute {
		return
	}
	for node := int(t % every / time.Second); node < g.Nodes; node += 60 {
		g.restartNode(node)
	}
}
