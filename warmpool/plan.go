// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Plan runs the policy and enforces the rules that no policy may break:
//
//   - an ENI never gets more slots than it has room for, and a card never more
//     ENIs than its limit;
//   - usable addresses never exceed Limits.MaxPods, rounded up to whole slots;
//   - growth stays within what the subnet is known to have;
//   - a slot with an assigned or cooling address is never given back, nor is
//     the primary ENI or one that is not for pods.
//
// What breaks a rule is cut to what the rule allows or dropped, and
// Decision.Capped says why. The rest is the policy's. Plan is pure, and safe
// for concurrent use if the policy is.
func Plan(p Policy, s Snapshot) Decision {
	if w, ok := p.(ServeWaiting); ok && s.Demand.Waiting <= 0 {
		// The wrapper changes nothing now, and each wrapper copies the snapshot
		// and the decision.
		p = w.Policy
	}
	d := p.Decide(s)
	d.Next = max(d.Next, 0)
	if len(d.Actions) == 0 {
		return d
	}
	return enforce(d, s)
}

// enforce is apart from Plan so that a decision to do nothing allocates nothing.
func enforce(d Decision, s Snapshot) Decision {
	f := newFrame(&s)
	for i, a := range d.Actions {
		allowed := f.allow(a)
		if f.kept == nil && allowed == a {
			f.count(a)
			continue
		}
		if f.kept == nil {
			// The slice is the policy's; it is copied at the first change.
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

// frame is the state after the actions that were let through.
type frame struct {
	s      *Snapshot
	supply Supply
	// podSlots and subnetSlots are how many slots may still be added; negative
	// means no limit is known.
	podSlots, subnetSlots int
	newENIs               int
	done                  []Action
	kept                  []Action
	capped                Reason
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

// allow returns what of an action the rules let through; an empty Op means nothing.
func (f *frame) allow(a Action) Action {
	if a.Op.grows() {
		return f.allowGrowth(a)
	}
	e := f.find(a.ENI)
	if e == nil || e.NoPods {
		f.cap(Because("giving back refused: no ENI of that name is for pods"))
		return Action{}
	}
	_, free := e.idleSlots(f.supply.Unit)
	if a.Op == OpDelete {
		if !e.idle() || f.touched(a.ENI) {
			f.cap(Because("deletion refused: ENI has %d assigned, %d cooling and %d pending, or is the primary",
				e.Assigned, e.Cooling, e.PendingSlots))
			return Action{}
		}
		a.N = e.Slots
		return a
	}
	free -= f.slots(a.ENI, OpUnassign)
	if a.Op != OpUnassign || free <= 0 || a.N <= 0 || f.slots(a.ENI, OpDelete) > 0 {
		f.cap(Because("giving back refused: %d slots wanted, %d free", a.N, max(0, free)))
		return Action{}
	}
	if a.N > free {
		f.cap(Because("giving back cut from %d slots to the %d that are free", a.N, free))
		a.N = free
	}
	return a
}

func (f *frame) allowGrowth(a Action) Action {
	room := f.s.Limits.SlotsPerENI
	if a.Op == OpAssign {
		e := f.find(a.ENI)
		if e == nil || f.slots(a.ENI, OpDelete) > 0 {
			f.cap(Because("growth refused: no such ENI"))
			return Action{}
		}
		room = f.s.room(e) - f.slots(a.ENI, OpAssign)
	} else if f.newENIs == 0 {
		f.cap(Because("growth refused: card has all of its %d ENIs", f.s.Limits.MaxENIs))
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

func (f *frame) atMost(n, limit int, why Reason) int {
	if n <= limit {
		return n
	}
	f.cap(why)
	return limit
}

func (f *frame) cap(why Reason) {
	if f.capped.IsZero() {
		f.capped = why
	}
}

// count takes an action into account that was let through.
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

// slots sums what the actions so far do to an ENI by one operation. A deletion
// counts as at least one slot.
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

func (f *frame) touched(eni string) bool { return named(f.done, eni) }

func (f *frame) find(eni string) *ENI {
	for i := range f.s.ENIs {
		if f.s.ENIs[i].ID == eni && eni != "" {
			return &f.s.ENIs[i]
		}
	}
	return nil
}

// since is the time that has passed since t, or zero if t is not set.
func (s *Snapshot) since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return s.Now.Sub(t)
}
