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
	callsInSample                int
}

// Point is the state of the fleet at one moment.
type Point struct {
	At time.Duration `json:"-"`
	// Seconds is At as JSON and CSV have it.
	Seconds float64 `json:"seconds"`
	// Supply counts addresses held, Demand those that pods use, Waiting the
	// pods without one. Calls counts the EC2 calls since the last point.
	Supply  int `json:"supply"`
	Demand  int `json:"demand"`
	Waiting int `json:"waiting"`
	Calls   int `json:"calls"`
}

func newMetrics(c Config, t Trace) *metrics {
	return &metrics{
		from: t.From, horizon: t.Horizon, sample: c.Sample,
		calls:     map[call]int{},
		perSecond: make([]int32, int(t.Horizon/time.Second)+1),
	}
}

func (m *metrics) advance(from, to time.Duration) {
	for next := time.Duration(len(m.series)) * m.sample; next <= to; next += m.sample {
		m.series = append(m.series, Point{
			At: next, Seconds: next.Seconds(), Supply: m.held, Demand: m.assigned, Waiting: m.waiting, Calls: m.callsInSample,
		})
		m.callsInSample = 0
	}
	if from = max(from, m.from); to <= from {
		return
	}
	s := (to - from).Seconds()
	m.idleArea += float64(m.held-m.assigned) * s
	m.heldArea += float64(m.held) * s
	m.waitArea += float64(m.waiting) * s
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
	m.callsInSample++
	if now < m.from {
		return
	}
	m.calls[c]++
	m.perSecond[now/time.Second]++
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
