// SPDX-License-Identifier: Apache-2.0

package patience

import (
	"slices"
	"testing"
	"time"
)

// TestPatience lets a peer change one thing for ever, and another thing once.
func TestPatience(t *testing.T) {
	var p Patience
	fought := []string{"rule"}
	begin := time.Unix(0, 0)
	now := begin
	var granted []time.Duration
	fights := 0
	for range 100 {
		due, next, fighting := p.Grant(fought, now)
		if fighting {
			fights++
		}
		if due[0] {
			granted = append(granted, now.Sub(begin))
			now = now.Add(time.Millisecond)
			continue
		}
		if next <= 0 {
			t.Fatal("nothing granted and no time to look again")
		}
		now = now.Add(next)
	}
	if len(granted) < Burst || granted[Burst-1] > Burst*time.Millisecond {
		t.Errorf("the first %d repairs were granted at %v, want them at once", Burst, granted[:min(Burst, len(granted))])
	}
	if fights != len(granted)-Burst+1 {
		t.Errorf("%d of %d repairs told of a fight, want each after the first %d", fights, len(granted), Burst-1)
	}
	if last := granted[len(granted)-1] - granted[len(granted)-2]; last != Last {
		t.Errorf("after a long fight a repair is granted every %v, want %v", last, Last)
	}
	if due, next, _ := p.Grant([]string{"route", "rule"}, now); !slices.Equal(due, []bool{true, false}) || next <= 0 {
		t.Errorf("granted %v and the rest in %v: a fight over one thing delays the repair of another", due, next)
	}
	now = now.Add(2 * Burst * Last)
	if due, _, _ := p.Grant(fought, now); !due[0] || p.seen["rule"].wait != First || len(p.seen) != 1 {
		t.Error("a fight is not forgotten after a long peace")
	}
}
