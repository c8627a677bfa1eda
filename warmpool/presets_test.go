// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// big returns a card with one ENI of up to 1000 slots.
func big(slots, assigned int) warmpool.Snapshot {
	s := addresses(slots, assigned)
	s.Limits.SlotsPerENI = 1000
	return s
}

func TestCilium(t *testing.T) {
	plain := warmpool.Cilium{Release: true, ReleaseAfter: time.Nanosecond}
	marks := plain
	marks.MinAllocate, marks.MaxAboveWatermark = 10, 6
	for _, r := range []struct {
		policy                    warmpool.Cilium
		avail, used, need, excess int
		grow                      int
	}{
		{plain, 0, 0, 8, 0, 8}, {plain, 8, 3, 3, 0, 3}, {plain, 8, 8, 8, 0, 8}, {plain, 20, 15, 3, 0, 3}, {plain, 30, 5, 0, 17, 0},
		{marks, 0, 0, 10, 0, 16}, {marks, 16, 0, 0, 0, 0}, {marks, 24, 4, 0, 8, 0}, {marks, 24, 10, 0, 0, 0},
		{marks, 30, 12, 0, 4, 0}, {marks, 30, 20, 0, 0, 0},
	} {
		s := big(r.avail, r.used)
		s.Memory.Times[0] = s.Now.Add(-time.Hour)
		d := warmpool.Plan(r.policy, s)
		got := [3]int{d.Short, d.Over, slotsOf(d)}
		if want := [3]int{r.need, r.excess, r.grow - r.excess}; got != want {
			t.Errorf("%+v: needed, excess, slots added = %v; want %v", r, got, want)
		}
	}
}

func TestCiliumSurge(t *testing.T) {
	s := big(8, 8)
	s.Demand.Bound = 30
	d := warmpool.Plan(warmpool.Cilium{MaxAboveWatermark: 4}, s)
	if d.Short != 8 || slotsOf(d) != 8+4+22 {
		t.Errorf("needed %d, slots added %d; want 8, and 34 = 8 + 4 above the watermark + 22 surge", d.Short, slotsOf(d))
	}
}

func TestAzureV2(t *testing.T) {
	target := map[int]int{0: 16, 8: 16, 9: 32, 16: 32, 24: 32, 25: 48, 40: 48, 41: 64, 250: 250, 300: 250}
	for demand, want := range target {
		s := big(0, 0)
		s.Demand.Bound = demand
		checkSlots(t, fmt.Sprintf("demand %d", demand), warmpool.Plan(warmpool.AzureV2{}, s), want, 0)
	}
	for demand, want := range map[int]int{0: 1, 1: 2, 7: 8} {
		s := big(0, 0)
		s.Demand.Bound, s.Subnet.Exhausted = demand, true
		checkSlots(t, fmt.Sprintf("exhausted, demand %d", demand), warmpool.Plan(warmpool.AzureV2{}, s), want, 0)
	}
	checkSlots(t, "24 of 48", warmpool.Plan(warmpool.AzureV2{}, big(48, 24)), 0, 16)
	s := big(48, 24)
	s.ENIs[0].Cooling = 10
	checkSlots(t, "all or nothing", warmpool.Plan(warmpool.AzureV2{}, s), 0, 6)
}

func TestAzureV1(t *testing.T) {
	for _, r := range [][3]int{
		{16, 0, 16}, {16, 8, 16}, {16, 9, 32}, {16, 16, 32}, {32, 9, 32}, {32, 8, 16}, {32, 7, 16}, {20, 13, 32}, {250, 245, 250}, {250, 200, 240},
	} {
		d := warmpool.Plan(warmpool.AzureV1{}, big(r[0], r[1]))
		if got := r[0] + slotsOf(d); got != r[2] {
			t.Errorf("(%d, %d) -> %d; want %d (%s)", r[0], r[1], got, r[2], d.Explanation)
		}
	}
}

func TestTerway(t *testing.T) {
	p := warmpool.Terway{MinIdle: 5, MaxIdle: 10}
	for _, r := range []struct{ idle, inUse, drop, add int }{
		{0, 0, 0, 5}, {3, 10, 0, 2}, {12, 10, 2, 0}, {10, 30, 0, 0}, {2, 38, 0, 0},
	} {
		s := big(r.idle+r.inUse, r.inUse)
		s.Limits.SlotsPerENI = 40
		if got, want := slotsOf(warmpool.Plan(p, s)), r.add-r.drop; got != want {
			t.Errorf("%+v: slots added %d; want %d", r, got, want)
		}
	}
	s := big(0, 0)
	s.Demand.Waiting = 23
	d := warmpool.Plan(warmpool.Terway{}, s)
	if slotsOf(d) != 23 || len(d.Actions) != 3 {
		t.Errorf("23 pods wait: %d slots in %d calls; want 23 in 3", slotsOf(d), len(d.Actions))
	}
	p.WarmUp = 20
	checkSlots(t, "warm-up", warmpool.Plan(p, big(0, 0)), 20, 0)
}

func TestTerwayReclaim(t *testing.T) {
	p := warmpool.Terway{MinIdle: 5, MaxIdle: 10, ReclaimAfter: time.Hour}
	for idle, drop := range map[int]int{4: 0, 7: 2, 10: 5, 13: 8, 20: 15} {
		s := big(idle, 0)
		s.Now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		d := warmpool.Plan(p, big(max(5, min(idle, 10)), 0)) // inside the band
		s.Memory = d.Memory
		s.Memory.Times[1] = s.Now.Add(-time.Hour)
		if got := -slotsOf(warmpool.Plan(p, s)); max(got, 0) != drop {
			t.Errorf("idle %d: drop %d; want %d", idle, got, drop)
		}
	}
}

func TestResourceController(t *testing.T) {
	type row struct{ used, warm, pending, cooling, dev int }
	for _, r := range []row{
		{0, 0, 0, 0, 3}, {0, 3, 0, 0, 0}, {2, 1, 0, 0, 2}, {2, 1, 2, 0, 0}, {2, 1, 0, 3, 2}, {2, 6, 0, 0, -3}, {0, 6, 0, 0, -3}, {0, 0, 0, 4, 3},
	} {
		s := big(r.used+r.warm+r.cooling, r.used)
		s.ENIs[0].Cooling, s.ENIs[0].PendingSlots = r.cooling, r.pending
		checkSlots(t, fmt.Sprintf("%+v", r), warmpool.Plan(warmpool.ResourceController{}, s), max(0, r.dev), max(0, -r.dev))
	}
	for _, r := range []row{
		{0, 0, 0, 0, 1}, {15, 1, 0, 0, 0}, {16, 0, 0, 0, 1}, {3, 29, 0, 0, -1}, {3, 45, 0, 0, -2},
	} {
		total := (r.used + r.warm) / 16
		s := prefixes(total, total-(r.used+15)/16, r.used)
		checkSlots(t, fmt.Sprintf("prefixes %+v", r), warmpool.Plan(warmpool.ResourceController{}, s), max(0, r.dev), max(0, -r.dev))
	}
	checkSlots(t, "draining", warmpool.Plan(warmpool.ResourceController{Draining: true}, big(9, 4)), 0, 5)
}

// slotsOf returns the number of slots that a decision adds; negative if it
// releases more.
func slotsOf(d warmpool.Decision) int {
	n := 0
	for _, a := range d.Actions {
		switch a.Op {
		case warmpool.OpAssign, warmpool.OpCreate:
			n += a.N
		default:
			n -= a.N
		}
	}
	return n
}
