// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// AWS implements the warm targets of amazon-vpc-cni-k8s, with its names and its
// arithmetic. T is the number of usable addresses, A the number of assigned ones,
// and free = T - A.
//
// With the address targets (WarmIPTarget W or MinimumIPTarget M) the pool is short
// of max(W-free, M-T) addresses and has min(free-W, T-M) too many. That is a
// corridor without width:
//
//	Min = GrowTo = Max = ShrinkTo = max(A+W, M)
//
// Prefixes are rounded to whole ones, up when growing and down when releasing:
//
//	 T   A   W   M | short over        prefixes free   A   W   M | short over
//	 0   0   2   5 |     5    0               1    1   1  16   0 |     1    0
//	 5   4   2   5 |     1    0               3    2   1  16   0 |     0    1
//	 9   5   2   5 |     0    2               4    3   1   1  20 |     0    2
//	14   3   6  20 |     6    0               2    2   0   7  20 |     0    0
//
// With the prefix target P the pool grows when fewer than 16 P addresses are free,
// and then to P wholly free prefixes; it releases free prefixes beyond P. With the
// ENI target E the pool keeps the addresses of E ENIs free, fills ENIs completely,
// and releases only whole ENIs.
//
// On network cards other than 0 both address targets are 1, whatever is set.
// AWS ignores Demand and the free addresses of the subnet, but does not grow while
// Subnet.Exhausted is set.
type AWS struct {
	// WarmENITarget is WARM_ENI_TARGET: the number of ENIs to keep free. It
	// applies only to secondary private IPs, and only if neither WarmIPTarget
	// nor MinimumIPTarget is set.
	WarmENITarget int
	// WarmIPTarget is WARM_IP_TARGET, the number of free addresses.
	// MinimumIPTarget is MINIMUM_IP_TARGET, the least number of addresses in all.
	// If either is set, they override the other two targets.
	WarmIPTarget, MinimumIPTarget int
	// WarmPrefixTarget is WARM_PREFIX_TARGET: the number of wholly free prefixes.
	// It applies only to prefixes.
	WarmPrefixTarget int
	// MinAge is the least age of an ENI that is deleted. Zero means 60 s.
	MinAge time.Duration
	// UnassignEvery is the least time between two unassignments. Zero means 30 s.
	UnassignEvery time.Duration
	// Quirks turns on defects of the original.
	Quirks Quirks
}

// Quirks are defects of amazon-vpc-cni-k8s v1.23. AWS has them only on request;
// with all of them it decides as the original does.
type Quirks struct {
	// CoolingIsFree counts cooling addresses as available, although no pod can
	// have them. Pods then wait although the pool counts enough addresses.
	CoolingIsFree bool
	// CardUnits uses a number of addresses as a number of prefixes on network
	// cards other than 0. An idle card then releases its only prefix and requests
	// it again, forever.
	CardUnits bool
	// ZeroFlaps releases the last free prefix or ENI if the prefix or ENI target
	// is zero, and requests it again because nothing is free.
	ZeroFlaps bool
}

const (
	awsMinAge        = time.Minute
	awsUnassignEvery = 30 * time.Second
)

// awsView holds the inputs of the formulas.
type awsView struct {
	Supply
	usable, free int
	// idle counts the free slots.
	idle      int
	warm, min int
	// targets is set if the address targets apply.
	targets bool
	perENI  int
}

func (p AWS) view(s *Snapshot) awsView {
	v := awsView{Supply: s.Supply(), warm: p.WarmIPTarget, min: p.MinimumIPTarget}
	v.usable, v.free, v.idle = v.Usable(), v.Free(), v.FreeSlots
	if p.Quirks.CoolingIsFree {
		v.usable, v.free, v.idle = v.Total, v.Total-v.Assigned, v.EmptySlots
	}
	if s.Card > 0 {
		v.warm, v.min = 1, 1
	}
	v.targets = v.warm > 0 || v.min > 0
	v.perENI = s.Limits.SlotsPerENI * v.Unit
	return v
}

// Decide implements Policy. Like the original, it grows by one call and deletes at
// most one ENI at a time.
func (p AWS) Decide(s Snapshot) Decision {
	v := p.view(&s)
	d := Decision{Memory: s.Memory}
	d.Short, d.Over, d.Explanation = p.count(&s, v)
	switch {
	case d.Short > 0 && s.Limits.MaxPods > 0 && v.usable >= s.Limits.MaxPods:
		d.Capped = Because("no growth: %d usable addresses reach max-pods %d", v.usable, s.Limits.MaxPods)
	case d.Short > 0 && s.Subnet.Exhausted:
		d.Capped = Because("no growth: the subnet is exhausted")
	case d.Short > 0:
		want := d.Short
		if !v.targets && v.Unit == 1 {
			want = s.Limits.SlotsPerENI
		}
		d.Actions = Placer{OneStep: true}.Grow(nil, &s, want, d.Explanation)
		return d
	}
	p.release(&s, v, &d)
	return d
}

// count returns the missing and the surplus slots by the targets.
func (p AWS) count(s *Snapshot, v awsView) (short, over int, why Explanation) {
	switch {
	case v.targets:
		return p.countAddresses(s, v)
	case v.Unit > 1:
		return p.countPrefixes(v)
	}
	want := max(1, p.WarmENITarget*v.perENI)
	return max(0, want-v.free), 0, Because("WARM_ENI_TARGET %d: %d free of %d addresses, %d an ENI",
		p.WarmENITarget, v.free, v.usable, v.perENI)
}

func (p AWS) countAddresses(s *Snapshot, v awsView) (short, over int, why Explanation) {
	want := max(v.Assigned+v.warm, v.min)
	c := Corridor{Min: want, GrowTo: want, Max: want, ShrinkTo: want}
	supply := v.Supply
	if p.Quirks.CoolingIsFree {
		supply.Cooling, supply.FreeSlots = 0, v.EmptySlots
	}
	if p.Quirks.CardUnits && s.Card > 0 {
		supply.Unit, supply.FreeSlots = 1, v.free
	}
	short, over = c.Slots(supply)
	why = Because("WARM_IP_TARGET %d, MINIMUM_IP_TARGET %d: want %d, have %d usable addresses, %d assigned",
		v.warm, v.min, want, v.usable, v.Assigned)
	return short, over, why
}

func (p AWS) countPrefixes(v awsView) (short, over int, why Explanation) {
	if v.free < max(1, p.WarmPrefixTarget*v.Unit) {
		short = max(1, p.WarmPrefixTarget-v.idle)
	} else {
		over = max(0, v.idle-p.WarmPrefixTarget)
		if !p.Quirks.ZeroFlaps {
			over = min(over, (v.free-1)/v.Unit)
		}
	}
	why = Because("WARM_PREFIX_TARGET %d: %d free addresses, %d wholly free prefixes of %d",
		p.WarmPrefixTarget, v.free, v.idle, v.Slots)
	return short, over, why
}

// release adds the releases to d: one whole ENI if the targets hold without it,
// and single slots for the rest of the surplus. The original unassigns the
// addresses of an ENI before it deletes the ENI; release saves that call.
func (p AWS) release(s *Snapshot, v awsView, d *Decision) {
	left := d.Over
	minAge := cmp.Or(p.MinAge, awsMinAge)
	for i := len(s.ENIs) - 1; i >= 0; i-- {
		e := &s.ENIs[i]
		if !e.idle() || !p.spare(v, e) {
			continue
		}
		if e.Age < minAge {
			d.Next = sooner(d.Next, minAge-e.Age)
			continue
		}
		d.Actions = append(d.Actions, Action{Op: OpDelete, ENI: e.ID, N: e.Slots, Explanation: d.Explanation})
		d.Over = max(d.Over, e.Slots)
		left -= e.Slots
		break
	}
	if left <= 0 {
		return
	}
	every := cmp.Or(p.UnassignEvery, awsUnassignEvery)
	last := s.Memory.Times[0]
	if passed := s.since(last); !last.IsZero() && passed < every {
		d.Next = sooner(d.Next, every-passed)
		return
	}
	before := len(d.Actions)
	d.Actions = unassign(d.Actions, 0, s, left, d.Explanation)
	if len(d.Actions) > before {
		d.Memory.Times[0] = s.Now
	}
}

// spare reports whether the targets hold without e.
func (p AWS) spare(v awsView, e *ENI) bool {
	lost := e.addresses(v.Unit)
	if !v.targets && v.free-lost < 1 && !p.Quirks.ZeroFlaps {
		return false
	}
	if !v.targets && v.Unit == 1 {
		return v.free >= (p.WarmENITarget+1)*v.perENI
	}
	if v.free-lost < alignUp(v.warm, v.Unit) || v.usable-lost < alignUp(v.min, v.Unit) {
		return false
	}
	_, idle := e.idleSlots(v.Unit)
	return v.Unit == 1 || v.idle-idle >= p.WarmPrefixTarget
}
