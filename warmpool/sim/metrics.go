// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"time"
)

// metrics collects what a report says. Only what happens from the trace's From
// on counts.
type metrics struct {
	from, horizon, sample time.Duration

	pods, unserved          int
	waits                   []float64 // seconds, of those that waited at all
	rests                   []float64 // seconds a slot lay idle before it was given back
	calls                   map[call]int
	perSecond               []int32
	throttled, refused      int
	churned                 int
	events, decisions       int
	held, assigned, waiting int

	idleArea, heldArea, waitArea float64 // address-seconds, pod-seconds
	series                       []Point
	// next is the point that is being filled, its means as areas so far.
	next Point
}

// Point is the state of the fleet in the time since the point before.
type Point struct {
	// Seconds is when the time ends.
	Seconds float64 `json:"seconds"`
	// Supply is the mean number of addresses held, Demand of those that pods
	// use: the area between them is what lies idle. PeakDemand is the most that
	// pods used, Waiting the most pods that were without one.
	Supply     float64 `json:"supply"`
	Demand     float64 `json:"demand"`
	PeakDemand int     `json:"peakDemand"`
	Waiting    int     `json:"waiting"`
	// Calls counts the EC2 calls.
	Calls int `json:"calls"`
}

func newMetrics(c Config, t Trace) *metrics {
	return &metrics{
		from: t.From, horizon: t.Horizon, sample: c.Sample,
		calls:     map[call]int{},
		perSecond: make([]int32, int(t.Horizon/time.Second)+1),
	}
}

// advance counts what stayed as it is from one time to another.
func (m *metrics) advance(from, to time.Duration) {
	m.fill(from, to)
	if from = max(from, m.from); to <= from {
		return
	}
	s := (to - from).Seconds()
	m.idleArea += float64(m.held-m.assigned) * s
	m.heldArea += float64(m.held) * s
	m.waitArea += float64(m.waiting) * s
}

// fill fills the points of the series.
func (m *metrics) fill(from, to time.Duration) {
	for from < to {
		end := time.Duration(len(m.series)+1) * m.sample
		part := min(to, end) - from
		m.next.Supply += float64(m.held) * part.Seconds()
		m.next.Demand += float64(m.assigned) * part.Seconds()
		m.next.PeakDemand = max(m.next.PeakDemand, m.assigned)
		m.next.Waiting = max(m.next.Waiting, m.waiting)
		if from += part; from < end {
			return
		}
		m.next.Seconds = end.Seconds()
		m.next.Supply /= m.sample.Seconds()
		m.next.Demand /= m.sample.Seconds()
		m.series = append(m.series, m.next)
		m.next = Point{}
	}
}

func (m *metrics) served(now, wait time.Duration) {
	if now-wait < m.from {
		return
	}
	m.pods++
	if wait > 0 {
		m.waits = append(m.waits, wait.Seconds())
	}
}

// gaveUp counts a pod that left, or was still there at the end, without ever
// having had an address.
func (m *metrics) gaveUp(now, wait time.Duration) {
	if now-wait < m.from {
		return
	}
	m.served(now, wait)
	m.unserved++
}

func (m *metrics) call(c call, now time.Duration) {
	m.next.Calls++
	if now < m.from {
		return
	}
	m.calls[c]++
	m.perSecond[now/time.Second]++
}

func (m *metrics) throttle(now time.Duration) {
	if now >= m.from {
		m.throttled++
	}
}

func (m *metrics) refuse(now time.Duration) {
	if now >= m.from {
		m.refused++
	}
}

func (m *metrics) churn(now time.Duration) {
	if now >= m.from {
		m.churned++
	}
}

func (m *metrics) gaveBack(now, idle time.Duration) {
	if now >= m.from {
		m.rests = append(m.rests, idle.Seconds())
	}
}

// quantile of n values of which only the positive ones are in the list, sorted.
func quantile(sorted []float64, n int, q float64) float64 {
	if n == 0 {
		return 0
	}
	rank := max(1, int(q*float64(n)+0.9999999))
	if i := rank - 1 - (n - len(sorted)); i >= 0 {
		return sorted[min(i, len(sorted)-1)]
	}
	return 0
}

func (e *engine) finish() {
	for i := range e.nodes {
		for _, p := range e.nodes[i].pods {
			if p.state == waiting {
				e.m.gaveUp(e.now, e.now-p.since)
			}
		}
	}
	slices.Sort(e.m.waits)
	slices.Sort(e.m.rests)
}
