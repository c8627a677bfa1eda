// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"cmp"
	"time"
)

// AWS keeps the warm targets of amazon-vpc-cni-k8s, with its names and its
// arithmetic. With T usable addresses, A of them assigned, free = T - A:
//
// Address targets (WarmIPTarget W or MinimumIPTarget M set) miss
// max(W-free, M-T) addresses and have min(free-W, T-M) too many, which is one
// corridor without width:
//
//	Min = GrowTo = Max = ShrinkTo = max(A+W, M)
//
// For prefixes the same is rounded to whole ones, up when growing and down
// when giving back:
//
//	 T   A   W   M | short over        prefixes free   A   W   M | short over
//	 0   0   2   5 |     5    0               1    1   1  16   0 |     1    0
//	 5   4   2   5 |     1    0               3    2   1  16   0 |     0    1
//	 9   5   2   5 |     0    2               4    3   1   1  20 |     0    2
//	14   3   6  20 |     6    0               2    2   0   7  20 |     0    0
//
// The prefix target wants so many wholly free prefixes' worth of addresses,
// and as many free prefixes when it adds or gives back. The ENI target wants so
// many ENIs' worth of free addresses, fills ENIs to the brim, and gives back
// only whole ENIs.
//
// On network cards other than 0 both address targets are 1, whatever is set.
// AWS counts neither Demand nor pressure on the subnet, but does not grow while
// the subnet refuses.
type AWS struct {
	// WarmENITarget is WARM_ENI_TARGET: whole ENIs' worth of free addresses.
	// It counts only for secondary private IPs and only if neither
	// WarmIPTarget nor MinimumIPTarget is set.
	WarmENITarget int
	// WarmIPTarget is WARM_IP_TARGET, free addresses; MinimumIPTarget is
	// MINIMUM_IP_TARGET, addresses in all. If either is set, they override the
	// other two.
	WarmIPTarget, MinimumIPTarget int
	// WarmPrefixTarget is WARM_PREFIX_TARGET: wholly free prefixes. It counts
	// only for prefixes.
	WarmPrefixTarget int
	// MinAge is how old an ENI must be before it is deleted. Zero means 60 s.
	MinAge time.Duration
	// UnassignEvery is the least time between two unassignments. Zero means 30 s.
	UnassignEvery time.Duration
	// Quirks switches defects of the original on.
	Quirks Quirks
}

// Quirks are defects of amazon-vpc-cni-k8s v1.23 that AWS leaves out unless
// asked. With all of them on it decides as the original does.
type Quirks struct {
	// CoolingIsFree counts cooling addresses as available, although no pod can
	// have them: a pool that looks full then lets pods wait.
	CoolingIsFree bool
	// CardUnits takes a count of addresses for a count of prefixes on network
	// cards other than 0: an idle card gives its only prefix back and asks for
	// it again for ever.
	CardUnits bool
	// ZeroFlaps gives the last free prefix or ENI back where the prefix or ENI
	// target is zero, and asks for it again because nothing is free.
	ZeroFlaps bool
}

const (
	awsMinAge        = time.Minute
	awsUnassignEvery = 30 * time.Second
)

// awsView is what the formulas look at.
type awsView struct {
	Supply
	usable, free int
	// idle counts prefixes without a pod.
	idle      int
	warm, min int
	// targets says that the address targets rule.
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

// Decide implements Policy. Like the original it grows by one call at a time,
// and deletes at most one ENI at a time.
func (p AWS) Decide(s Snapshot) Decision {
	v := p.view(&s)
	d := Decision{Memory: s.Memory}
	d.Short, d.Over, d.Reason = p.count(&s, v)
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
		d.Actions = Placement{OneStep: true}.Grow(nil, &s, want, d.Reason)
		return d
	}
	p.release(&s, v, &d)
	return d
}

// count is the arithmetic of the targets, in slots.
func (p AWS) count(s *Snapshot, v awsView) (short, over int, why Reason) {
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

func (p AWS) countAddresses(s *Snapshot, v awsView) (short, over int, why Reason) {
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

func (p AWS) countPrefixes(v awsView) (short, over int, why Reason) {
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

// release fills d with what can be given back: one whole ENI if the targets
// hold without it, and single slots for the rest of what is over. The original
// unassigns an ENI's addresses first and deletes it a moment later; we save
// that call.
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
		d.Actions = append(d.Actions, Action{Op: OpDelete, ENI: e.ID, N: e.Slots, Reason: d.Reason})
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
	d.Actions = unassign(d.Actions, 0, s, left, d.Reason)
	if len(d.Actions) > before {
		d.Memory.Times[0] = s.Now
	}
}

// spare says that the targets hold without e.
func (p AWS) spare(v awsView, e *ENI) bool {
	gone := e.addresses(v.Unit)
	if !v.targets && v.free-gone < 1 && !p.Quirks.ZeroFlaps {
		return false
	}
	if !v.targets && v.Unit == 1 {
		return v.free >= (p.WarmENITarget+1)*v.perENI
	}
	if v.free-gone < alignUp(v.warm, v.Unit) || v.usable-gone < alignUp(v.min, v.Unit) {
		return false
	}
	_, idle := e.idleSlots(v.Unit)
	return v.Unit == 1 || v.idle-idle >= p.WarmPrefixTarget
}
