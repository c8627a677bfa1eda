// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"math/bits"
	"time"
)

// Predictive adds headroom that it learns: it watches how much demand rises
// within the time that a refill takes, and keeps a quantile of those rises
// free. A static policy clamps it on both sides: never less than Policy keeps,
// and never more than Max free addresses.
//
// Time is cut into windows as long as a refill. Of each window the largest rise
// of demand above its start is counted in a histogram whose classes double:
// 0, 1, 2, 3-4, 5-8, and so on. When 256 windows are counted all classes are
// halved, so the past fades with a half-life of that many windows. The headroom
// is the upper end of the class in which the quantile lies.
//
//	rises seen             90 x 0, 8 x 3, 2 x 20
//	headroom at 0.9        0
//	headroom at 0.95       4
//	headroom at 0.99       32
type Predictive struct {
	Policy Policy
	// Latency is the time that a refill takes, a new ENI included. Zero means 15 s.
	Latency time.Duration
	// Quantile of the rises to cover, between 0 and 1. Zero means 0.99.
	Quantile float64
	// Max is the most headroom in addresses. Zero means 32.
	Max int
}

// Predictive's memory: when the window began; the demand at that time, the
// largest rise so far, and the histogram.
const (
	predictStart, predictRise, predictFirst = 0, 1, 2
	predictClasses                          = 14
	predictWindows                          = 256
)

// Decide implements Policy.
func (w Predictive) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := w.Policy.Decide(s)
	v := s.Supply()
	demand := v.Assigned + s.Demand.Pending()
	w.watch(&m, s.Now, demand)
	headroom := min(w.headroom(&m), cmp.Or(w.Max, 32))
	d = atLeast(d, &s, v, demand+headroom, Because("headroom of %d addresses above a demand of %d, %d usable", headroom, demand, v.Usable()))
	d.Memory = m.wrap(d.Memory)
	return d
}

// watch counts what has happened since the last decision. Nothing happened in
// windows that have passed as a whole, or there would have been a decision.
func (w Predictive) watch(m *Memory, now time.Time, demand int) {
	latency := cmp.Or(w.Latency, 15*time.Second)
	if m.Times[0].IsZero() {
		m.Times[0], m.Counts[predictStart] = now, demand
	}
	if passed := int64(now.Sub(m.Times[0]) / latency); passed > 0 {
		m.record(m.Counts[predictRise], 1)
		m.record(0, int(min(passed-1, predictWindows)))
		m.Times[0] = m.Times[0].Add(time.Duration(passed) * latency)
		m.Counts[predictStart], m.Counts[predictRise] = min(demand, m.Counts[predictStart]+m.Counts[predictRise]), 0
	}
	m.Counts[predictStart] = min(m.Counts[predictStart], demand)
	m.Counts[predictRise] = max(m.Counts[predictRise], demand-m.Counts[predictStart])
}

// record counts a rise n times.
func (m *Memory) record(rise, n int) {
	class := 0
	if rise > 0 {
		class = min(1+bits.Len(uint(rise-1)), predictClasses-1)
	}
	h := m.Counts[predictFirst:]
	h[class] += n
	sum := 0
	for _, c := range h[:predictClasses] {
		sum += c
	}
	if sum >= predictWindows {
		for i := range predictClasses {
			h[i] /= 2
		}
	}
}

// headroom is the quantile of the rises counted.
func (w Predictive) headroom(m *Memory) int {
	q := cmp.Or(w.Quantile, 0.99)
	h := m.Counts[predictFirst : predictFirst+predictClasses]
	sum := 0
	for _, c := range h {
		sum += c
	}
	seen := 0
	for class, c := range h {
		if seen += c; sum > 0 && float64(seen) >= q*float64(sum) {
			if class == 0 {
				return 0
			}
			return 1 << (class - 1)
		}
	}
	return 0
}
