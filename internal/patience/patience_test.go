// SPDX-License-Identifier: Apache-2.0

package patience

import (
	"slices"
	"testing"
	"time"
)

// TestPatience simulates another program that changes one thing again and again, and
// another thing once.
func TestPatience(t *testing.T) {
	var p Patience
	rule := []string{"rule"}
	begin := time.Unix(0, 0)
	now := begin
	var granted []time.Duration
	fights := 0
	for range 100 {
		due, next, fighting := p.Grant(rule, now)
		if fighting {
			fights++
		}
		if due[0] {
			granted = append(granted, now.Sub(begin))
			now = now.Add(time.Millisecond)
			continue
		}
		if next <= 0 {
			t.Fatalf("no repair granted, and the next in %v, want more than 0", next)
		}
		now = now.Add(next)
	}
	if len(granted) < Burst || granted[Burst-1] > Burst*time.Millisecond {
		t.Errorf("the first %d repairs were granted at %v, want them at once", Burst, granted[:min(Burst, len(granted))])
	}
	if fights != len(granted)-Burst+1 {
		t.Errorf("Grant reported fighting for %d of %d repairs, want each after the first %d", fights, len(granted), Burst-1)
	}
	if last := granted[len(granted)-1] - granted[len(granted)-2]; last != Last {
		t.Errorf("after many repairs one is granted every %v, want every %v", last, Last)
	}
	if due, next, _ := p.Grant([]string{"route", "rule"}, now); !slices.Equal(due, []bool{true, false}) || next <= 0 {
		t.Errorf("granted %v and the next in %v, want the route at once and the rule later", due, next)
	}
	now = now.Add(2 * Burst * Last)
	if due, _, _ := p.Grant(rule, now); !due[0] || p.budgets["rule"].wait != First || len(p.budgets) != 1 {
		t.Errorf("after a long time without changes the budgets are %v, want one with the wait %v", p.budgets, First)
	}
}
