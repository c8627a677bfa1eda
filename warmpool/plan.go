// SPDX-License-Identifier: Apache-2.0

package warmpool

// Plan runs the policy and enforces the rules that no policy may break:
//
//   - an ENI gets no more slots than it has room for, and a card no more ENIs
//     than its limit;
//   - usable addresses do not exceed Limits.MaxPods, rounded up to whole slots;
//   - growth does not exceed the known free addresses of the subnet;
//   - a slot with an assigned or cooling address is not given back, and neither
//     is the primary ENI or an ENI that is not for pods.
//
// Plan cuts an action that breaks a rule, or drops it, and says why in
// Decision.Capped. It does not change other actions. Plan is pure, and safe for
// concurrent use if the policy is.
func Plan(p Policy, s Snapshot) Decision {
	if w, ok := p.(ServeWaiting); ok && s.Demand.Pending() <= 0 {
		// The wrapper would change nothing, and running it would copy the snapshot
		// and the decision once more.
		p = w.Policy
	}
	d := decide(p, s)
	d.Next = max(d.Next, 0)
	if len(d.Actions) == 0 {
		return d
	}
	return enforce(d, s)
}

// enforce applies the rules. It is a separate function so that Plan allocates
// nothing for a decision without actions.
func enforce(d Decision, s Snapshot) Decision {
	f := newFrame(&s)
	for i, a := range d.Actions {
		allowed := f.allow(a)
		if f.kept == nil && allowed == a {
			f.count(a)
			continue
		}
		if f.kept == nil {
			// The slice belongs to the policy, so copy it before the first change.
			f.kept = append(make([]Action, 0, len(d.Actions)), d.Actions[:i]...)
		}
		if allowed.Op != "" {
			f.count(allowed)
			f.kept = append(f.kept, allowed)
		}
	}
	if f.kept != nil {
		d.Actions = f.kept
	}
	if d.Capped.IsZero() {
		d.Capped = f.capped
	}
	return d
}

// frame is the state of the pool after the actions allowed so far.
type frame struct {
	s      *Snapshot
	supply Supply
	// podSlots and subnetSlots are the numbers of slots that may still be added
	// by max-pods and by the subnet; negative means that there is no known limit.
	podSlots, subnetSlots int
	newENIs               int
	done                  []Action
	// kept is the list of allowed actions once it differs from the policy's.
	kept   []Action
	capped Explanation
}

func newFrame(s *Snapshot) *frame {
	f := &frame{s: s, supply: s.Supply(), podSlots: -1, subnetSlots: -1}
	f.newENIs = f.supply.NewENIs
	if s.Limits.MaxPods > 0 {
		f.podSlots = max(0, ceilDiv(s.Limits.MaxPods-f.supply.Usable(), f.supply.Unit))
	}
	free := s.Subnet.Free
	if f.supply.Unit > 1 {
		free = s.Subnet.FreePrefixes
	}
	if free > 0 {
		f.subnetSlots = free
	}
	return f
}

// allow returns the part of an action that the rules permit. An empty Op means
// that they permit nothing.
func (f *frame) allow(a Action) Action {
	if a.Op.grows() {
		return f.allowGrowth(a)
	}
	e := f.find(a.ENI)
	if e == nil || e.NoPods {
		f.cap(Because("release refused: no ENI for pods has this ID"))
		return Action{}
	}
	_, free := e.idleSlots(f.supply.Unit)
	if a.Op == OpDelete {
		if !e.idle() || f.touched(a.ENI) {
			f.cap(Because("deletion refused: ENI is the primary, or has %d assigned and %d cooling addresses and %d pending slots",
				e.Assigned, e.Cooling, e.PendingSlots))
			return Action{}
		}
		a.N = e.Slots
		return a
	}
	free -= f.slots(a.ENI, OpUnassign)
	if a.Op != OpUnassign || free <= 0 || a.N <= 0 || f.slots(a.ENI, OpDelete) > 0 {
		f.cap(Because("release refused: %d slots requested, %d free", a.N, max(0, free)))
		return Action{}
	}
	if a.N > free {
		f.cap(Because("release cut from %d slots to the %d that are free", a.N, free))
		a.N = free
	}
	return a
}

func (f *frame) allowGrowth(a Action) Action {
	room := f.s.Limits.SlotsPerENI
	if a.Op == OpAssign {
		e := f.find(a.ENI)
		if e == nil || f.slots(a.ENI, OpDelete) > 0 {
			f.cap(Because("growth refused: no ENI has this ID"))
			return Action{}
		}
		room = f.s.room(e) - f.slots(a.ENI, OpAssign)
	} else if f.newENIs == 0 {
		f.cap(Because("growth refused: the card has %d ENIs, its limit", f.s.Limits.MaxENIs))
		return Action{}
	}
	n := f.atMost(a.N, room, Because("growth of %d slots cut to the room of %d on the ENI", a.N, max(0, room)))
	if f.podSlots >= 0 {
		n = f.atMost(n, f.podSlots, Because("growth of %d slots cut to %d: max-pods %d, usable addresses %d",
			a.N, f.podSlots, f.s.Limits.MaxPods, f.supply.Usable()))
	}
	if f.subnetSlots >= 0 {
		n = f.atMost(n, f.subnetSlots, Because("growth of %d slots cut to the %d left in the subnet", a.N, f.subnetSlots))
	}
	if n <= 0 {
		return Action{}
	}
	a.N = n
	return a
}

func (f *frame) atMost(n, limit int, why Explanation) int {
	if n <= limit {
		return n
	}
	f.cap(why)
	return limit
}

func (f *frame) cap(why Explanation) {
	if f.capped.IsZero() {
		f.capped = why
	}
}

// count updates the frame with an allowed action.
func (f *frame) count(a Action) {
	if a.Op == OpCreate {
		f.newENIs--
	}
	if a.Op.grows() && f.podSlots >= 0 {
		f.podSlots -= a.N
	}
	if a.Op.grows() && f.subnetSlots >= 0 {
		f.subnetSlots -= a.N
	}
	f.done = append(f.done, a)
}

// slots sums the slots of the allowed actions on an ENI with one operation. It
// counts a deletion as at least one slot.
func (f *frame) slots(eni string, op Op) int {
	n := 0
	for _, a := range f.done {
		if a.ENI != eni || a.Op != op {
			continue
		}
		if n += a.N; op == OpDelete {
			n++
		}
	}
	return n
}

func (f *frame) touched(eni string) bool { return touches(f.done, eni) }

func (f *frame) find(eni string) *ENI {
	for i := range f.s.ENIs {
		if f.s.ENIs[i].ID == eni && eni != "" {
			return &f.s.ENIs[i]
		}
	}
	return nil
}
