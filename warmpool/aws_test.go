// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

var (
	t3small  = warmpool.Limits{MaxENIs: 3, SlotsPerENI: 3, AddressesPerSlot: 1, MaxPods: 11}
	m4x4     = warmpool.Limits{MaxENIs: 8, SlotsPerENI: 29, AddressesPerSlot: 1, MaxPods: 234}
	p3dn     = warmpool.Limits{MaxENIs: 15, SlotsPerENI: 49, AddressesPerSlot: 1, MaxPods: 737}
	t3prefix = warmpool.Limits{MaxENIs: 3, SlotsPerENI: 3, AddressesPerSlot: 16, MaxPods: 110}
	p3prefix = warmpool.Limits{MaxENIs: 15, SlotsPerENI: 49, AddressesPerSlot: 16, MaxPods: 737}
)

// grow adds pods one at a time and settles the pool after each.
func grow(t *testing.T, p warmpool.Policy, pool *warmpooltest.Pool, pods int) {
	t.Helper()
	settle(t, p, pool)
	for range pods {
		pool.AddPod()
		settle(t, p, pool)
	}
}

func settle(t *testing.T, p warmpool.Policy, pool *warmpooltest.Pool) {
	t.Helper()
	ok, err := pool.Settle(p, 1000)
	if err != nil || !ok {
		t.Fatalf("the pool does not settle: %v", err)
	}
}

func perENI(s warmpool.Snapshot) []int {
	var out []int
	for _, e := range s.ENIs {
		out = append(out, e.Slots)
	}
	return out
}

func full(n, ofEach int, rest ...int) []int {
	return append(slices.Repeat([]int{ofEach}, n), rest...)
}

// TestAWSAddresses checks the table in docs/eni-and-ip-target.md of
// amazon-vpc-cni-k8s, and more rows from its formulas.
func TestAWSAddresses(t *testing.T) {
	for _, tc := range []struct {
		limits warmpool.Limits
		policy warmpool.AWS
		pods   int
		want   []int
	}{
		{t3small, warmpool.AWS{WarmENITarget: 1}, 0, []int{3}},
		{t3small, warmpool.AWS{WarmENITarget: 1}, 1, []int{3, 3}},
		{t3small, warmpool.AWS{WarmENITarget: 1}, 3, []int{3, 3}},
		{t3small, warmpool.AWS{WarmENITarget: 1}, 4, []int{3, 3, 3}},
		{t3small, warmpool.AWS{WarmENITarget: 1}, 5, []int{3, 3, 3}},
		{t3small, warmpool.AWS{WarmENITarget: 1}, 9, []int{3, 3, 3}},
		{t3small, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, 0, []int{1}},
		{t3small, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, 5, []int{3, 3}},
		{t3small, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, 9, []int{3, 3, 3}},
		// The document has 2,3 here, but the original fills the first ENI first.
		{t3small, warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 5}, 0, []int{3, 2}},
		{t3small, warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 5}, 5, []int{3, 3, 1}},
		{t3small, warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 5}, 9, []int{3, 3, 3}},
		{p3dn, warmpool.AWS{WarmENITarget: 1}, 0, []int{49}},
		{p3dn, warmpool.AWS{WarmENITarget: 1}, 3, []int{49, 49}},
		{p3dn, warmpool.AWS{WarmENITarget: 1}, 95, []int{49, 49, 49}},
		{p3dn, warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, 0, []int{10}},
		{p3dn, warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, 7, []int{12}},
		{p3dn, warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, 15, []int{20}},
		{p3dn, warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, 45, []int{49, 1}},
		// The README of the original has two ENIs here, but its code keeps one.
		{m4x4, warmpool.AWS{WarmENITarget: 1}, 0, []int{29}},
		{m4x4, warmpool.AWS{WarmENITarget: 1}, 1, []int{29, 29}},
		{m4x4, warmpool.AWS{WarmENITarget: 1}, 29, []int{29, 29}},
		{m4x4, warmpool.AWS{WarmENITarget: 1}, 30, []int{29, 29, 29}},
		{m4x4, warmpool.AWS{WarmENITarget: 2}, 0, []int{29, 29}},
		{m4x4, warmpool.AWS{WarmENITarget: 2}, 1, []int{29, 29, 29}},
		{m4x4, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 12}, 0, []int{12}},
		{m4x4, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 12}, 9, []int{12}},
		{m4x4, warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 12}, 12, []int{13}},
		{m4x4, warmpool.AWS{}, 0, []int{29}},
	} {
		p := tc.policy
		name := fmt.Sprintf("%d ENIs, ENI=%d IP=%d MIN=%d, %d pods", tc.limits.MaxENIs, p.WarmENITarget, p.WarmIPTarget, p.MinimumIPTarget, tc.pods)
		t.Run(name, func(t *testing.T) {
			pool := warmpooltest.NewPool(tc.limits)
			grow(t, p, pool, tc.pods)
			if diff := cmp.Diff(tc.want, perENI(pool.Snapshot())); diff != "" {
				t.Errorf("addresses per ENI (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAWSPrefixes checks the rows of docs/prefix-and-ip-target.md. Where the
// document contradicts the code of the original, the row follows the code, and doc
// is the text of the document.
func TestAWSPrefixes(t *testing.T) {
	for _, tc := range []struct {
		limits warmpool.Limits
		policy warmpool.AWS
		pods   int
		slots  []int // per ENI
		used   []int // pods per prefix
		doc    string
	}{
		{limits: t3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 0, slots: []int{1}, used: []int{0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 5, slots: []int{2}, used: []int{5, 0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 16, slots: []int{2}, used: []int{16, 0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 17, slots: []int{3}, used: []int{16, 1, 0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 58, slots: []int{3, 2}, used: []int{16, 16, 16, 10, 0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, pods: 0, slots: []int{1}, used: []int{0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, pods: 5, slots: []int{1}, used: []int{5}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, pods: 17, slots: []int{2}, used: []int{16, 1}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 1, MinimumIPTarget: 1}, pods: 58, slots: []int{3, 1}, used: []int{16, 16, 16, 10}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 7, MinimumIPTarget: 20}, pods: 0, slots: []int{2}, used: []int{0, 0},
			doc: "1 prefix, 1 free, 16 addresses"},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 7, MinimumIPTarget: 20}, pods: 5, slots: []int{2}, used: []int{5, 0}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 7, MinimumIPTarget: 20}, pods: 17, slots: []int{2}, used: []int{16, 1}},
		{limits: t3prefix, policy: warmpool.AWS{WarmIPTarget: 7, MinimumIPTarget: 20}, pods: 58, slots: []int{3, 2}, used: []int{16, 16, 16, 10, 0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 0, slots: []int{1}, used: []int{0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 3, slots: []int{2}, used: []int{3, 0}, doc: "2 ENIs"},
		{limits: p3prefix, policy: warmpool.AWS{WarmPrefixTarget: 1}, pods: 95, slots: []int{7}, used: full(5, 16, 15, 0), doc: "3 ENIs"},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, pods: 0, slots: []int{1}, used: []int{0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, pods: 7, slots: []int{1}, used: []int{7}},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, pods: 15, slots: []int{2}, used: []int{15, 0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, pods: 45, slots: []int{4}, used: []int{16, 16, 13, 0}, doc: "2 ENIs"},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 16}, pods: 0, slots: []int{1}, used: []int{0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmIPTarget: 16}, pods: 1, slots: []int{2}, used: []int{1, 0}},
		{limits: p3prefix, policy: warmpool.AWS{WarmPrefixTarget: 2}, pods: 0, slots: []int{2}, used: []int{0, 0}},
	} {
		p := tc.policy
		name := fmt.Sprintf("%d ENIs, PREFIX=%d IP=%d MIN=%d, %d pods", tc.limits.MaxENIs, p.WarmPrefixTarget, p.WarmIPTarget, p.MinimumIPTarget, tc.pods)
		t.Run(name, func(t *testing.T) {
			pool := warmpooltest.NewPool(tc.limits)
			grow(t, p, pool, tc.pods)
			s := pool.Snapshot()
			var used []int
			for _, e := range s.ENIs {
				used = append(used, e.AssignedPerSlot...)
			}
			if diff := cmp.Diff([][]int{tc.slots, tc.used}, [][]int{perENI(s), used}); diff != "" {
				t.Errorf("prefixes per ENI, pods per prefix (-want +got):\n%s(the document of the original has: %s)", diff, tc.doc)
			}
		})
	}
}

// addresses returns a card with one large ENI.
func addresses(total, assigned int) warmpool.Snapshot {
	return warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 1, SlotsPerENI: 100, AddressesPerSlot: 1},
		ENIs:   []warmpool.ENI{{ID: "eni-0", Primary: true, Slots: total, Addresses: total, Assigned: assigned}},
	}
}

// prefixes returns a card with one large ENI with the given number of prefixes,
// free prefixes and assigned addresses.
func prefixes(total, free, assigned int) warmpool.Snapshot {
	perSlot := make([]int, total)
	left := assigned
	for i := range total - free {
		perSlot[i] = min(16, left-(total-free-1-i))
		left -= perSlot[i]
	}
	return warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 1, SlotsPerENI: 100, AddressesPerSlot: 16},
		ENIs: []warmpool.ENI{{ID: "eni-0", Primary: true, Slots: total, Addresses: 16 * total,
			Assigned: assigned, AssignedPerSlot: perSlot}},
	}
}

func TestAWSTargetState(t *testing.T) {
	type row struct{ total, assigned, warm, min, short, over int }
	for _, r := range []row{
		{3, 0, 1, 0, 0, 2}, {3, 0, 4, 0, 1, 0}, {3, 2, 3, 0, 2, 0}, {3, 0, 1, 3, 0, 0},
		{14, 3, 6, 20, 6, 0}, {0, 0, 2, 5, 5, 0}, {5, 0, 2, 5, 0, 0}, {9, 4, 1, 6, 0, 3},
		{5, 3, 2, 5, 0, 0}, {5, 4, 2, 5, 1, 0}, {5, 5, 2, 5, 2, 0}, {9, 5, 2, 5, 0, 2}, {12, 5, 2, 5, 0, 5},
		{0, 0, 5, 0, 5, 0}, {6, 1, 5, 0, 0, 0}, {10, 2, 5, 0, 0, 3},
	} {
		d := warmpool.Plan(warmpool.AWS{WarmIPTarget: r.warm, MinimumIPTarget: r.min}, addresses(r.total, r.assigned))
		checkSlots(t, fmt.Sprintf("%+v", r), d, r.short, r.over)
	}
}

func TestAWSTargetStatePrefixes(t *testing.T) {
	type row struct{ total, free, assigned, warm, min, short, over int }
	for _, r := range []row{
		{1, 0, 1, 16, 0, 1, 0}, {3, 2, 1, 16, 0, 0, 1}, {4, 3, 1, 1, 20, 0, 2}, {2, 2, 0, 7, 20, 0, 0}, {5, 4, 3, 5, 10, 0, 4},
		{0, 0, 0, 5, 0, 1, 0}, {1, 1, 0, 5, 0, 0, 0}, {1, 0, 12, 5, 0, 1, 0}, {2, 1, 3, 5, 0, 0, 1}, {3, 0, 3, 5, 0, 0, 0}, {3, 2, 14, 5, 0, 0, 1},
	} {
		d := warmpool.Plan(warmpool.AWS{WarmIPTarget: r.warm, MinimumIPTarget: r.min}, prefixes(r.total, r.free, r.assigned))
		checkSlots(t, fmt.Sprintf("%+v", r), d, r.short, r.over)
	}
}

// checkSlots checks Short and Over, and that the sum of the actions equals them.
func checkSlots(t *testing.T, name string, d warmpool.Decision, short, over int) {
	t.Helper()
	if d.Short != short || d.Over != over {
		t.Errorf("%s: short %d, over %d; want %d, %d (%s)", name, d.Short, d.Over, short, over, d.Explanation)
	}
	if n := slotsOf(d); n != short-over {
		t.Errorf("%s: actions %v add %d slots; want %d", name, d.Actions, n, short-over)
	}
}

func TestAWSCallCount(t *testing.T) {
	pool := warmpooltest.NewPool(p3dn)
	grow(t, warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, pool, 45)
	want := map[warmpool.Op]int{warmpool.OpAssign: 40, warmpool.OpCreate: 1}
	if diff := cmp.Diff(want, pool.Calls); diff != "" {
		t.Errorf("calls for 45 pods, added one by one (-want +got):\n%s", diff)
	}
}

// TestAWSOtherCards checks that both address targets are 1 on network cards other
// than 0.
func TestAWSOtherCards(t *testing.T) {
	p := warmpool.AWS{WarmENITarget: 3, WarmIPTarget: 10, MinimumIPTarget: 20, WarmPrefixTarget: 2}
	for _, r := range []struct{ total, assigned, short, over int }{{0, 0, 1, 0}, {1, 0, 0, 0}, {1, 1, 1, 0}, {5, 2, 0, 2}} {
		s := addresses(r.total, r.assigned)
		s.Card = 1
		checkSlots(t, fmt.Sprintf("card 1, %+v", r), warmpool.Plan(p, s), r.short, r.over)
	}
	s := prefixes(0, 0, 0)
	s.Card = 2
	checkSlots(t, "card 2, prefixes", warmpool.Plan(p, s), 1, 0)
}

func TestAWSQuirks(t *testing.T) {
	t.Run("CoolingIsFree", func(t *testing.T) {
		s := addresses(5, 2)
		s.ENIs[0].Cooling = 2
		p := warmpool.AWS{WarmIPTarget: 2}
		checkSlots(t, "cooling addresses are not supply", warmpool.Plan(p, s), 1, 0)
		p.Quirks.CoolingIsFree = true
		checkSlots(t, "cooling addresses are free", warmpool.Plan(p, s), 0, 1)
	})
	t.Run("CardUnits", func(t *testing.T) {
		s := prefixes(1, 1, 0)
		s.Card = 1
		p := warmpool.AWS{WarmPrefixTarget: 1}
		checkSlots(t, "an idle prefix on card 1 stays", warmpool.Plan(p, s), 0, 0)
		p.Quirks.CardUnits = true
		if d := warmpool.Plan(p, s); d.Over != 15 {
			t.Errorf("over %d; want 15, because the original counts 15 addresses as 15 prefixes", d.Over)
		}
	})
}

// TestAWSZeroFlaps settles pools in which the original releases and requests the
// only free prefix or ENI forever.
func TestAWSZeroFlaps(t *testing.T) {
	for _, limits := range []warmpool.Limits{t3prefix, t3small} {
		pool := warmpooltest.NewPool(limits)
		for range 3 {
			pool.AddPod()
		}
		if ok, err := pool.Settle(warmpool.AWS{}, 100); !ok || err != nil {
			t.Errorf("%+v: the pool does not settle: %v", limits, err)
		}
	}
	s := prefixes(1, 1, 0)
	checkSlots(t, "the last free prefix stays", warmpool.Plan(warmpool.AWS{}, s), 0, 0)
	checkSlots(t, "the original releases the last free prefix", warmpool.Plan(warmpool.AWS{Quirks: warmpool.Quirks{ZeroFlaps: true}}, s), 0, 1)
}

func TestAWSRelease(t *testing.T) {
	p := warmpool.AWS{WarmIPTarget: 1}
	s := addresses(5, 2)
	s.Now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := warmpool.Plan(p, s)
	checkSlots(t, "first", d, 0, 2)
	s.Memory = d.Memory
	s.Now = s.Now.Add(10 * time.Second)
	d = warmpool.Plan(p, s)
	if len(d.Actions) != 0 || d.Next != 20*time.Second {
		t.Errorf("10 s after the last release: actions %v, next %v; want none, 20s", d.Actions, d.Next)
	}
	s = addresses(5, 4)
	s.Limits.MaxENIs = 3
	s.ENIs = append(s.ENIs, warmpool.ENI{ID: "eni-1", Slots: 2, Age: 59 * time.Second})
	if d := warmpool.Plan(warmpool.AWS{WarmENITarget: 0}, s); len(d.Actions) != 0 {
		t.Errorf("ENI smaller than the spare addresses: actions %v; want none", d.Actions)
	}
	s.ENIs[1].Slots = 100
	d = warmpool.Plan(warmpool.AWS{WarmENITarget: 0}, s)
	if len(d.Actions) != 0 || d.Next != time.Second {
		t.Errorf("ENI younger than MinAge: actions %v, next %v; want none, 1s", d.Actions, d.Next)
	}
	s.ENIs[1].Age = time.Minute
	d = warmpool.Plan(warmpool.AWS{WarmENITarget: 0}, s)
	if len(d.Actions) != 1 || d.Actions[0].Op != warmpool.OpDelete {
		t.Errorf("idle ENI of age MinAge: actions %v; want one deletion", d.Actions)
	}
}
