// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"time"
)

// metrics collects the numbers of a report. It counts only from the trace's From
// on.
type metrics struct {
	from, horizon, sample time.Duration

	pods, unserved          int
	waits                   []float64 // seconds, of the pods that waited
	idleTimes               []float64 // seconds that a slot was idle before its release
	calls                   map[call]int
	perSecond               []int32
	throttled, refused      int
	churned                 int
	events, decisions       int
	held, assigned, waiting int

	idleArea, heldArea, waitArea float64 // address-seconds, pod-seconds
	series                       []Point
	// next is the current point. Its means are areas until it is complete.
	next Point
}

// Point describes the fleet in the time between the previous point and this one.
type Point struct {
	// Seconds is the end of the time.
	Seconds float64 `json:"seconds"`
	// Supply is the mean number of addresses held, Demand the mean number of
	// addresses that pods use. The area between them is idle. PeakDemand is the
	// largest number of addresses that pods used, Waiting the largest number of
	// waiting pods.
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

// advance adds the time between two events to the areas.
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

// fill updates the points of the series.
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

// gaveUp counts a pod that stopped, or still waited at the end, without an address.
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
		m.idleTimes = append(m.idleTimes, idle.Seconds())
	}
}

// quantile returns the quantile q of n values. The list holds the positive ones,
// sorted; the others are zero.
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
	slices.Sort(e.m.idleTimes)
}
