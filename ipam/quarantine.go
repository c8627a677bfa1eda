// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Use is an address that is in use on the node, according to the kernel.
type Use struct {
	Addr netip.Addr
	// By names the user of the address for an operator: "link eni0a1b2c3d4e5".
	By string
}

// Quarantined is an address that is in use although no attachment holds it. It
// is not allocated, and its block and ENI are not drained.
type Quarantined struct {
	Use
	// ENI is the ENI of the address's block; empty if the pool has no such block.
	ENI string
	// Since is when the pool learned of the use.
	Since time.Time

	// reported is set when Quarantine has returned it as added.
	reported bool
}

// Witness returns the addresses within the given prefixes that are in use now,
// whether or not the pool knows about them. The pool calls it with single
// addresses before it allocates them, and with the prefixes of a block or an ENI
// before it drains them. It must return quickly and must not call the pool.
type Witness func(within []netip.Prefix) ([]Use, error)

// Quarantine passes the result of one audit to the pool: all addresses in use,
// and the time at which the audit began. A used address that no attachment holds
// is quarantined until a later audit no longer lists it; then it cools for
// Config.Cooldown. Uses of addresses that attachments hold, and uses outside of
// the pool's blocks, are expected.
//
// Quarantine returns the addresses that were quarantined since the last call,
// including those that the witness reported, and the addresses that are no
// longer quarantined. The quarantine ends with the process; the next process
// audits the node when it starts.
func (p *Pool) Quarantine(began time.Time, uses []Use) (added, lifted []Quarantined, err error) {
	err = p.submit(func(t *tx) error {
		seen := map[netip.Addr]bool{}
		for _, u := range uses {
			seen[u.Addr] = true
			if err := t.quarantine(u, began); err != nil {
				return err
			}
		}
		for _, q := range slices.SortedFunc(maps.Values(t.st.uses), compareQuarantined) {
			b := t.st.blockOf(q.Addr)
			if b != nil {
				q.ENI = b.ENI
			}
			if seen[q.Addr] || q.Since.After(began) {
				if b != nil && !q.reported {
					added = append(added, q)
				}
				continue
			}
			if b != nil && q.reported {
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
		added[i].reported = true
		if now, still := p.st.uses[q.Addr]; still {
			now.reported = true
			p.st.uses[q.Addr] = now
		}
	}
	return added, lifted, nil
}

// quarantine quarantines an address that was found in use at or after began. It
// ignores an address that an attachment holds, or released after began.
func (t *tx) quarantine(u Use, began time.Time) error {
	if !validAddr(u.Addr) {
		return fmt.Errorf("use of address %v: %w", u.Addr, ErrInvalid)
	}
	if b := t.st.blockOf(u.Addr); b != nil {
		if owner, _ := b.used.owner(u.Addr); owner != (Attachment{}) {
			return nil
		}
		if i := slices.IndexFunc(b.released, func(r released) bool { return r.addr == u.Addr }); i >= 0 && b.released[i].at.After(began) {
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
			if owner, used := b.used.owner(a); used && owner != (Attachment{}) {
				return nil, fmt.Errorf("address %v belongs to %v: %w", a, owner, ErrConflict)
			} else if !used {
				undos = append(undos, b.take(a, Attachment{}))
			}
		}
		since := e.At
		if known {
			since = was.Since
		}
		s.uses[a] = Quarantined{Use: Use{a, e.By}, Since: since, reported: was.reported}
	case known:
		delete(s.uses, a)
		if b != nil {
			b.used.remove(a)
			b.addReleased(released{a, e.At})
			undos = append(undos, func() {
				b.removeReleased(a)
				b.used.set(a, Attachment{})
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

// listQuarantined returns the quarantined addresses of the pool's blocks.
func (s *state) listQuarantined() []Quarantined {
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

// quarantined counts the quarantined addresses of the block.
func (b *block) quarantined() int {
	n := 0
	for _, x := range b.used {
		if x.owner == (Attachment{}) {
			n++
		}
	}
	return n
}

// queryWitness calls the witness, if there is one. It must be called without
// the mutex.
func (p *Pool) queryWitness(within []netip.Prefix) ([]Use, error) {
	if p.witness == nil || len(within) == 0 {
		return nil, nil
	}
	uses, err := p.witness(within)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWitness, err)
	}
	return uses, nil
}

// allocated returns the addresses that the events of a transaction from index n
// on allocate.
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

// serveVerified serves the queue with addresses that are not in use according
// to the witness. If it chose addresses in use, it quarantines these and serves
// the queue again without them. The mutex is unlocked while the witness is
// queried. It returns the requests that were answered.
func (p *Pool) serveVerified(t *tx) []*waiter {
	for {
		mark, queue := len(t.events), slices.Clone(p.waiters)
		answered := p.serveQueue(t)
		addrs := t.allocated(mark)
		if p.witness == nil || len(addrs) == 0 {
			return answered
		}
		p.mu.Unlock()
		uses, err := p.queryWitness(addrs)
		p.mu.Lock()
		if err == nil && len(uses) == 0 {
			return answered
		}
		t.rollback(mark)
		p.waiters = queue
		for _, w := range answered {
			w.granted = nil
		}
		if err != nil {
			return p.failServed(queue, answered, err)
		}
		for _, u := range uses {
			// An address that cannot be quarantined is not allocated either.
			_ = t.quarantine(u, t.now)
		}
	}
}

// failServed answers with err the requests that had been served, and leaves the
// others in the queue.
func (p *Pool) failServed(queue, served []*waiter, err error) []*waiter {
	p.waiters = slices.DeleteFunc(queue, func(w *waiter) bool { return slices.Contains(served, w) })
	for _, w := range served {
		if w.err == nil {
			w.err = fmt.Errorf("allocate for %v: %w", w.request.Attachment, err)
		}
	}
	return served
}
