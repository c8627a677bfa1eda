// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"math/bits"
	"time"
)

// Predictive adds headroom to a policy. It measures how much demand rises during
// the time of one refill, and keeps a quantile of those rises free. The pool never
// has fewer addresses than Policy keeps, and the headroom is never larger than
// Max.
//
// Predictive divides time into windows of the length of a refill. It counts the
// largest rise of demand in each window in a histogram with the classes 0, 1, 2,
// 3-4, 5-8 and so on. After 256 windows it halves all counts, so that older windows
// lose weight. The headroom is the upper end of the class of the quantile.
//
//	rises seen             90 x 0, 8 x 3, 2 x 20
//	headroom at 0.9        0
//	headroom at 0.95       4
//	headroom at 0.99       32
type Predictive struct {
	Policy Policy
	// Latency is the time of a refill with a new ENI. Zero means 15 s.
	Latency time.Duration
	// Quantile is the part of the rises to cover, between 0 and 1. Zero means
	// 0.99.
	Quantile float64
	// Max is the most headroom in addresses. Zero means 32.
	Max int
}

// These are the indexes of Predictive's values in Memory.Counts: the demand at the
// start of the window, the largest rise so far, and the histogram. The first of
// Memory.Times is the start of the window.
const (
	predictStart, predictRise, predictFirst = 0, 1, 2
	predictClasses                          = 14
	predictWindows                          = 256
)

// Decide implements Policy.
func (w Predictive) Decide(s Snapshot) Decision {
	m := s.Memory
	s.Memory = m.inner(0)
	d := decide(w.Policy, s)
	v := s.Supply()
	demand := v.Assigned + s.Demand.Pending()
	w.watch(&m, s.Now, demand)
	headroom := min(w.headroom(&m), cmp.Or(w.Max, 32))
	d = atLeast(d, &s, v, demand+headroom, Because("headroom of %d addresses above a demand of %d, %d usable", headroom, demand, v.Usable()))
	d.Memory = m.wrap(d.Memory)
	return d
}

// watch counts the windows since the last decision. In windows that have passed
// without a decision demand did not change, because each change causes one.
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

// record adds n windows with the given rise to the histogram.
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

// headroom returns the quantile of the counted rises.
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
