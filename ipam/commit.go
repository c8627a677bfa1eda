// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"time"
)

// compactAfter is how many events a journal may have, beyond four times the
// length of its digest, before it is replaced by the digest.
const compactAfter = 4096

// op is one change requested of the pool. The caller that leads at the time
// runs the ops of all callers in the order of their arrival. Ops that arrive
// while the journal writes a batch form the next batch, so a hundred concurrent
// allocations cost only a few writes.
type op struct {
	// run changes the state through the transaction, or returns an error and
	// leaves the state unchanged. It is called with the pool's mutex held.
	run func(*tx) error
	err error
	// done is set when the outcome is known. wake receives when done was set, or
	// when the caller of the op is to lead.
	done bool
	wake chan struct{}
}

// tx collects the events of one batch and the functions that undo them.
type tx struct {
	st     *state
	now    time.Time
	events []Event
	undos  []func()
}

// do applies an event to the state.
func (t *tx) do(e Event) error {
	e.At = t.now
	undo, err := t.st.apply(e)
	if err != nil {
		return err
	}
	t.events = append(t.events, e)
	t.undos = append(t.undos, undo)
	return nil
}

// rollback undoes all events from index n on.
func (t *tx) rollback(n int) {
	for len(t.undos) > n {
		last := len(t.undos) - 1
		t.undos[last]()
		t.undos, t.events = t.undos[:last], t.events[:last]
	}
}

func (t *tx) durable() []Event {
	var out []Event
	for _, e := range t.events {
		if e.Kind.durable() {
			out = append(out, e)
		}
	}
	return out
}

// submit queues run for execution and returns when its outcome is durable.
func (p *Pool) submit(run func(*tx) error) error {
	o := &op{run: run, wake: make(chan struct{}, 1)}
	p.mu.Lock()
	p.queue = append(p.queue, o)
	if p.committing {
		p.mu.Unlock()
		<-o.wake
		p.mu.Lock()
	}
	if !o.done {
		p.lead()
	}
	p.mu.Unlock()
	return o.err
}

// recheckQueue serves the queue again after a change that is not an event.
// There is no error to return: an error of the journal goes to the requests
// that would have been served.
func (p *Pool) recheckQueue() {
	_ = p.submit(func(*tx) error { return nil })
}

// lead commits the queue as one batch, which includes the caller's op. If more
// ops have arrived by then, it makes the caller of the first one the leader.
// lead is called and returns with the mutex held. It unlocks the mutex while it
// queries the witness and while the journal writes; meanwhile the committing
// flag keeps other callers from changing the state.
func (p *Pool) lead() {
	p.committing = true
	batch := p.queue
	p.queue = nil
	p.commit(batch)
	for _, o := range batch {
		o.done = true
		o.wake <- struct{}{}
	}
	if p.committing = len(p.queue) > 0; p.committing {
		p.queue[0].wake <- struct{}{}
	}
}

func (p *Pool) commit(batch []*op) {
	t := &tx{st: p.st, now: time.Now()}
	for _, o := range batch {
		mark := len(t.events)
		if o.err = o.run(t); o.err != nil {
			t.rollback(mark)
		}
	}
	answered := p.serveVerified(t)
	if err := p.write(t); err != nil {
		t.rollback(0)
		for _, o := range batch {
			if o.err == nil {
				o.err = err
			}
		}
		for _, w := range answered {
			w.granted, w.err = nil, err
		}
	}
	for _, w := range answered {
		close(w.done)
	}
	if waiting := len(p.waiters); len(t.events) > 0 || len(answered) > 0 || waiting != p.waiting {
		p.waiting = waiting
		p.tellReaders()
	}
}

// tellReaders sends to the channels of Subscribe. The caller holds the mutex.
func (p *Pool) tellReaders() {
	for c := range p.readers {
		select {
		case c <- struct{}{}:
		default: // a value is pending already
		}
	}
}

// write makes the transaction durable. It unlocks the mutex while the journal
// writes.
func (p *Pool) write(t *tx) error {
	events := t.durable()
	if p.journal == nil || len(events) == 0 {
		return nil
	}
	var all []Event
	if p.journalLen+len(events) > compactAfter+4*p.st.digestLen() {
		all = p.st.digest()
	}
	p.mu.Unlock()
	err := error(nil)
	if all != nil {
		err = p.journal.Replace(all)
	} else {
		err = p.journal.Append(events)
	}
	p.mu.Lock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	p.journalLen += len(events)
	if all != nil {
		p.journalLen = len(all)
	}
	return nil
}

// digestLen estimates the number of events of a digest.
func (s *state) digestLen() int {
	return len(s.enis) + len(s.blocks) + len(s.held)
}
