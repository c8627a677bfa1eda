// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Use is one address that something outside of the pool is seen to use.
type Use struct {
	Addr netip.Addr
	// By says what uses it, for a person: "link eni0a1b2c3d4e5".
	By string
}

// Quarantined is an address that something uses and no attachment holds. It is
// not allocated, and its block and ENI are not drained.
type Quarantined struct {
	Use
	// ENI owns the block of the address; empty if the pool has no such block.
	ENI string
	// Since is when the pool learned of the use.
	Since time.Time

	// told says that Quarantine has returned it.
	told bool
}

// Witness returns the addresses in the given prefixes that something uses now,
// whether or not the pool knows of it. The pool asks it before it gives an
// address to an attachment, with single addresses, and before it drains a block
// or an ENI. It must answer at once and not call the pool.
type Witness func(within []netip.Prefix) ([]Use, error)

// Quarantine tells the pool every use of an address that was seen in one look,
// which began at the given time. A used address that no attachment holds is
// quarantined until a later look does not show it any more; then it rests for
// Config.Cooldown. Uses of addresses that attachments hold, and uses outside of
// the pool's blocks, are no fault. Quarantine returns what was added since the
// last call, by the witness's word too, and what was lifted. Quarantine does not outlive the process, which looks again when it
// starts.
func (p *Pool) Quarantine(at time.Time, uses []Use) (added, lifted []Quarantined, err error) {
	err = p.submit(func(t *tx) error {
		seen := map[netip.Addr]bool{}
		for _, u := range uses {
			seen[u.Addr] = true
			if err := t.quarantine(u, at); err != nil {
				return err
			}
		}
		for _, q := range slices.SortedFunc(maps.Values(t.st.uses), compareQuarantined) {
			b := t.st.blockOf(q.Addr)
			if b != nil {
				q.ENI = b.ENI
			}
			if seen[q.Addr] || q.Since.After(at) {
				if b != nil && !q.told {
					added = append(added, q)
				}
				continue
			}
			if b != nil && q.told {
				lifted = append(lifted, q)
			}
			if err := t.do(Event{Kind: EventUnquarantined, Addrs: []netip.Addr{q.Addr}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, q := range added {
		added[i].told = true
		if now, still := p.st.uses[q.Addr]; still {
			now.told = true
			p.st.uses[q.Addr] = now
		}
	}
	return added, lifted, nil
}

// quarantine notes a use that was seen at the given time, unless the pool knows
// more: the address belongs to an attachment, or did until after that time.
func (t *tx) quarantine(u Use, at time.Time) error {
	if !validAddr(u.Addr) {
		return fmt.Errorf("use of address %v: %w", u.Addr, ErrInvalid)
	}
	if b := t.st.blockOf(u.Addr); b != nil {
		if owner := b.used[u.Addr]; owner != (Attachment{}) {
			return nil
		}
		if i := slices.IndexFunc(b.rested, func(r rest) bool { return r.addr == u.Addr }); i >= 0 && b.rested[i].at.After(at) {
			return nil
		}
	}
	if old, known := t.st.uses[u.Addr]; known && old.By == u.By {
		return nil
	}
	return t.do(Event{Kind: EventQuarantined, Addrs: []netip.Addr{u.Addr}, By: u.By})
}

// setQuarantine applies EventQuarantined and EventUnquarantined.
func (s *state) setQuarantine(e Event) (func(), error) {
	a := e.Addrs[0]
	b := s.blockOf(a)
	was, known := s.uses[a]
	var undos []func()
	switch {
	case e.Kind == EventQuarantined:
		if b != nil {
			if owner, used := b.used[a]; used && owner != (Attachment{}) {
				return nil, fmt.Errorf("address %v belongs to %v: %w", a, owner, ErrConflict)
			} else if !used {
				undos = append(undos, b.take(a, Attachment{}))
			}
		}
		since := e.At
		if known {
			since = was.Since
		}
		s.uses[a] = Quarantined{Use: Use{a, e.By}, Since: since, told: was.told}
	case known:
		delete(s.uses, a)
		if b != nil {
			delete(b.used, a)
			b.insert(rest{a, e.At})
			undos = append(undos, func() {
				b.unrest(a)
				b.used[a] = Attachment{}
			})
		}
	}
	return func() {
		for _, undo := range undos {
			undo()
		}
		delete(s.uses, a)
		if known {
			s.uses[a] = was
		}
	}, nil
}

// quarantine lists the quarantined addresses of the pool's blocks.
func (s *state) quarantine() []Quarantined {
	var out []Quarantined
	for _, q := range s.uses {
		if b := s.blockOf(q.Addr); b != nil {
			q.ENI = b.ENI
			out = append(out, q)
		}
	}
	slices.SortFunc(out, compareQuarantined)
	return out
}

func compareQuarantined(a, b Quarantined) int { return a.Addr.Compare(b.Addr) }

// quarantined counts the used addresses that no attachment holds.
func (b *block) quarantined() int {
	n := 0
	for _, owner := range b.used {
		if owner == (Attachment{}) {
			n++
		}
	}
	return n
}

// ask asks the witness, if there is one. It must be called without the mutex.
func (p *Pool) ask(within []netip.Prefix) ([]Use, error) {
	if p.witness == nil || len(within) == 0 {
		return nil, nil
	}
	uses, err := p.witness(within)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWitness, err)
	}
	return uses, nil
}

// allocated returns the addresses of a transaction's allocations from the n-th
// event on.
func (t *tx) allocated(n int) (out []netip.Prefix) {
	for _, e := range t.events[n:] {
		if e.Kind == EventAllocated {
			for _, a := range e.Addrs {
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return out
}

// serveSeen serves the queue with addresses that the witness finds unused. The
// others are quarantined, and the queue is served again without them. The mutex
// is free while the witness is asked.
func (p *Pool) serveSeen(t *tx) []*waiter {
	for {
		mark, queue := len(t.events), slices.Clone(p.waiters)
		settled := p.serve(t)
		addrs := t.allocated(mark)
		if p.witness == nil || len(addrs) == 0 {
			return settled
		}
		p.mu.Unlock()
		uses, err := p.ask(addrs)
		p.mu.Lock()
		if err == nil && len(uses) == 0 {
			return settled
		}
		t.rollback(mark)
		p.waiters = queue
		for _, w := range settled {
			w.granted = nil
		}
		if err != nil {
			return p.refuse(queue, settled, err)
		}
		for _, u := range uses {
			// What does not fit is in use already.
			_ = t.quarantine(u, t.now)
		}
	}
}

// refuse settles with err the requests that had been served, and leaves the
// others in the queue.
func (p *Pool) refuse(queue, served []*waiter, err error) []*waiter {
	p.waiters = slices.DeleteFunc(queue, func(w *waiter) bool { return slices.Contains(served, w) })
	for _, w := range served {
		if w.err == nil {
			w.err = fmt.Errorf("allocate for %v: %w", w.request.Attachment, err)
		}
	}
	return served
}
