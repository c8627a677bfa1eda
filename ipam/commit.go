// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"time"
)

// compactAfter is the number of events beyond which a journal that is mostly
// history is replaced by its digest.
const compactAfter = 4096

// op is one change asked of the pool. Ops are run in the order of their
// arrival by whichever caller leads at the time; all that gathered while the
// journal wrote the last batch go into the next one together, which makes a
// hundred concurrent allocations cost a few writes.
type op struct {
	// run changes the state through the transaction, or leaves it alone and
	// returns an error. It is called with the pool's mutex held.
	run func(*tx) error
	err error
	// done is set when the outcome is known. wake then receives, or earlier
	// when the op's caller shall lead.
	done bool
	wake chan struct{}
}

// tx collects the events of one batch and how to take them back.
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

// rollback takes back all events from the n-th on.
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

// submit has run executed and returns when its outcome is durable.
func (p *Pool) submit(run func(*tx) error) error {
	o := &op{run: run, wake: make(chan struct{}, 1)}
	p.mu.Lock()
	p.queue = append(p.queue, o)
	if p.led {
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

// lead commits the queue as one batch, the caller's op among it, and passes
// the lead on to whoever came meanwhile. It is called and returns with the
// mutex held; the mutex is free while the witness is asked and the journal
// writes, and the lead keeps all others from changing the state.
func (p *Pool) lead() {
	p.led = true
	batch := p.queue
	p.queue = nil
	p.commit(batch)
	for _, o := range batch {
		o.done = true
		o.wake <- struct{}{}
	}
	if p.led = len(p.queue) > 0; p.led {
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
	settled := p.serveSeen(t)
	if err := p.write(t); err != nil {
		t.rollback(0)
		for _, o := range batch {
			if o.err == nil {
				o.err = err
			}
		}
		for _, w := range settled {
			w.granted, w.err = nil, err
		}
	}
	for _, w := range settled {
		close(w.done)
	}
	if waiting := len(p.waiters); len(t.events) > 0 || len(settled) > 0 || waiting != p.waiting {
		p.waiting = waiting
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// write makes the transaction durable, with the mutex released meanwhile.
func (p *Pool) write(t *tx) error {
	events := t.durable()
	if p.journal == nil || len(events) == 0 {
		return nil
	}
	var all []Event
	if p.logged+len(events) > compactAfter+4*p.st.objects() {
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
	p.logged += len(events)
	if all != nil {
		p.logged = len(all)
	}
	return nil
}

// objects is about the length of a digest.
func (s *state) objects() int {
	return len(s.enis) + len(s.blocks) + len(s.held)
}
