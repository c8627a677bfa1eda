// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Config configures a Pool. The zero value is a pool in memory.
type Config struct {
	// Journal keeps the pool over restarts. Nil keeps nothing.
	Journal Journal
	// Cooldown is how long a released address rests before it is allocated
	// again. Zero means DefaultCooldown, a negative value none.
	Cooldown time.Duration
	// MaxPods bounds the number of attachments that hold addresses. Zero
	// means no bound.
	MaxPods int
	// Witness is asked before an address is given away. Nil means that nothing
	// uses addresses of the pool but its attachments.
	Witness Witness
	// RestSince is a time at which every address counts as released, as the end
	// of all pods by a reboot. Zero means that there is none.
	RestSince time.Time
}

// DefaultCooldown is the cooldown of amazon-vpc-cni-k8s: time enough for
// kube-proxy on other nodes to forget an endpoint that went.
const DefaultCooldown = 30 * time.Second

// Outlook is what the keeper of a pool says about more addresses of one family
// on one card. It becomes the reason of requests that go unserved.
type Outlook struct {
	Reason   Reason
	Evidence string
	// RetryAt is when the keeper tries again. Zero means unknown.
	RetryAt time.Time
	// Final means that waiting is useless. Requests are then refused at once,
	// unless a cooling address comes free before their deadline.
	Final bool
}

// Pool is a pool of addresses: a state that only events change, behind a queue
// of changes and the journal. All methods are safe for concurrent use. Those
// that change something return when the change is durable; if the journal
// fails they return ErrJournal and the change has not happened.
type Pool struct {
	journal Journal
	witness Witness
	maxPods int
	changed chan struct{}

	mu sync.Mutex
	st *state
	// queue holds the ops of the next batch; led says that someone commits.
	queue    []*op
	led      bool
	waiters  []*waiter
	waiting  int // len(waiters) after the last batch
	outlooks map[resource]Outlook
	logged   int // events in the journal
}

// Open makes a pool and replays its journal. What was allocated stays
// allocated and what was cooling goes on cooling. ENIs that the journal knows
// are not ready until SetReady says so. A journal that contradicts itself is
// ErrJournal; the pool never guesses who owns an address.
func Open(cfg Config) (*Pool, error) {
	cooldown := cfg.Cooldown
	if cooldown == 0 {
		cooldown = DefaultCooldown
	}
	p := &Pool{
		journal: cfg.Journal, witness: cfg.Witness, maxPods: cfg.MaxPods, changed: make(chan struct{}, 1),
		st: newState(max(0, cooldown)), outlooks: map[resource]Outlook{},
	}
	p.st.restSince = cfg.RestSince
	if p.journal == nil {
		return p, nil
	}
	events, err := p.journal.Load()
	if err != nil {
		return nil, fmt.Errorf("%w: load: %w", ErrJournal, err)
	}
	for i, e := range events {
		if _, err := p.st.apply(e); err != nil {
			return nil, fmt.Errorf("%w: event %d: %w", ErrJournal, i, err)
		}
	}
	p.st.settle(time.Now())
	p.logged = len(events)
	return p, nil
}

// Release takes the addresses of a back and returns them. They rest for
// Config.Cooldown before anyone gets them again. If a holds nothing it
// returns ErrNotAllocated, which a CNI DEL may ignore.
func (p *Pool) Release(a Attachment) ([]Allocation, error) {
	var out []Allocation
	err := p.submit(func(t *tx) error {
		out = t.st.allocations(t.st.held[a])
		if out == nil {
			return fmt.Errorf("%v: %w", a, ErrNotAllocated)
		}
		return t.do(Event{Kind: EventReleased, Attachment: a})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ReleaseIf releases every attachment one of whose allocations satisfies gone,
// in one step, and returns what was released. It is what CNI's GC and a
// collector of dead sandboxes need: gone is asked about what is held at that
// moment, and must be quick and not call the pool.
func (p *Pool) ReleaseIf(gone func(Allocation) bool) ([]Allocation, error) {
	var out []Allocation
	err := p.submit(func(t *tx) error {
		for _, g := range t.st.sortedGrants() {
			have := t.st.allocations(g)
			if !slices.ContainsFunc(have, gone) {
				continue
			}
			if err := t.do(Event{Kind: EventReleased, Attachment: g.attachment}); err != nil {
				return err
			}
			out = append(out, have...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetOutlook says what to expect for one family on one card. The zero Outlook
// means that there is nothing to say.
func (p *Pool) SetOutlook(card int, f Family, o Outlook) {
	res := resource{card, f}
	p.mu.Lock()
	same := p.outlooks[res] == o
	p.outlooks[res] = o
	p.mu.Unlock()
	if !same {
		// Nothing is written; only waiting requests are looked at again.
		_ = p.submit(func(*tx) error { return nil })
	}
}

// Changed returns a channel that receives after the pool or its queue changed.
// It holds one value, so that several changes are one; it has one reader.
func (p *Pool) Changed() <-chan struct{} { return p.changed }
