// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// The pods of a burst come within milliseconds of each other, and a call to EC2 takes
// at least a hundred. The agent therefore grows the pool when no further pod has come
// for quietFor, or quietMost after the first one: one call then serves the burst.
const (
	quietFor  = 20 * time.Millisecond
	quietMost = 100 * time.Millisecond
)

// burst records when pods came lately.
type burst struct {
	demand      int
	first, last time.Time // when the first and the latest pod came
}

// demand counts the addresses in use and the pods that wait for one, or are bound to the
// node without one.
func (l *loop) demand(v ipam.View) int {
	n := max(len(v.Waiting), l.bound)
	for _, e := range v.ENIs {
		for _, b := range e.Blocks {
			n += b.Used
		}
	}
	return n
}

// update records the present demand.
func (b *burst) update(demand int, now time.Time) {
	if demand > b.demand {
		if !b.end().After(now) {
			b.first = now
		}
		b.last = now
	}
	b.demand = demand
}

func (b *burst) end() time.Time {
	if most := b.first.Add(quietMost); most.Before(b.last.Add(quietFor)) {
		return most
	}
	return b.last.Add(quietFor)
}

// over reports whether the pool may grow now. If not, it adds the time to wake.
func (b *burst) over(now time.Time, wake *earliest) bool {
	wake.add(b.end(), now)
	return !b.end().After(now)
}
