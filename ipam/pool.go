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
	// Journal stores the pool across restarts. Nil means that the pool is not
	// stored.
	Journal Journal
	// Cooldown is how long a released address cools before it is allocated to
	// another attachment. Zero means 30 seconds, the value of amazon-vpc-cni-k8s. A negative
	// value means no cooldown.
	Cooldown time.Duration
	// MaxPods is the maximum number of attachments that hold addresses. Zero
	// means no limit.
	MaxPods int
	// Witness is queried before an address is allocated and before a block is
	// drained. Nil means that only attachments use addresses of the pool.
	Witness Witness
	// CoolingSince is a time at which every address counts as released, such as
	// the boot of the machine, which ended all pods. Zero means none.
	CoolingSince time.Time
}

// defaultCooldown is long enough for kube-proxy on other nodes to remove the
// endpoint of a deleted pod.
const defaultCooldown = 30 * time.Second

// Outlook says why no more addresses of one family are available on one card,
// and when that may change. The agent sets it; the pool returns it to requests
// that it refuses.
type Outlook struct {
	Reason   Reason
	Evidence string
	// RetryAt is when the agent tries again. Zero means unknown.
	RetryAt time.Time
	// Final means that waiting is useless. Requests are then refused at once,
	// unless the cooldown of an address ends before their deadline.
	Final bool
}

// Pool is a pool of addresses. Its state is changed only by events, which pass
// through a queue and the journal. All methods are safe for concurrent use. A
// method that changes the pool returns when the change is durable. If the
// journal fails it returns ErrJournal, and the pool is unchanged.
type Pool struct {
	journal Journal
	witness Witness
	readers map[chan struct{}]bool // of Subscribe

	mu      sync.Mutex
	st      *state
	maxPods int
	// otherPods count towards maxPods too.
	otherPods int
	// queue holds the ops of the next batch. committing is set while a caller
	// commits a batch.
	queue      []*op
	committing bool
	waiters    []*waiter
	waiting    int // len(waiters) after the last batch
	outlooks   map[resource]Outlook
	journalLen int // events in the journal
}

// Open creates a pool and replays its journal. Allocations and cooldowns
// continue. The ENIs of the journal are not ready until SetReady is called. If
// the events of the journal contradict each other, Open returns ErrJournal; it
// never guesses the owner of an address.
func Open(cfg Config) (*Pool, error) {
	p := &Pool{
		journal: cfg.Journal, witness: cfg.Witness, maxPods: cfg.MaxPods, readers: map[chan struct{}]bool{},
		st: newState(cooldownOf(cfg.Cooldown)), outlooks: map[resource]Outlook{},
	}
	p.st.coolingSince = cfg.CoolingSince
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
	p.st.rebaseTimes(time.Now())
	p.journalLen = len(events)
	return p, nil
}

// Release returns the addresses of a to the pool, where they cool for
// Config.Cooldown before another attachment gets them. Meanwhile a gets them back
// if it requests addresses again. If a holds no addresses
// Release returns ErrNotAllocated, which a CNI DEL may ignore.
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

// ReleaseIf releases, in one step, every attachment for which gone returns true
// for at least one allocation. It returns the released allocations. CNI's GC and
// a collector of dead sandboxes use it: gone is called with the allocations that
// are held at that moment. It must return quickly and must not call the pool.
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

// SetMaxPods changes Config.MaxPods. Attachments beyond a lower maximum keep their
// addresses.
func (p *Pool) SetMaxPods(n int) {
	p.mu.Lock()
	p.maxPods = n
	p.mu.Unlock()
	p.recheckQueue()
}

// SetOtherPods sets how many pods without addresses of the pool count towards
// Config.MaxPods. It reports whether there are at most MaxPods with them.
func (p *Pool) SetOtherPods(n int) (within bool) {
	p.mu.Lock()
	if p.otherPods != n {
		p.otherPods = n
		p.tellReaders()
	}
	within = p.maxPods == 0 || len(p.st.held)+n <= p.maxPods
	p.mu.Unlock()
	p.recheckQueue()
	return within
}

// SetCooldown changes Config.Cooldown, also for the addresses that are cooling.
func (p *Pool) SetCooldown(d time.Duration) {
	_ = p.submit(func(t *tx) error { // the op itself never fails, and without an event there is no journal
		t.st.cooldown = cooldownOf(d)
		return nil
	})
}

// cooldownOf returns the cooldown that a Config.Cooldown means.
func cooldownOf(d time.Duration) time.Duration {
	if d == 0 {
		return defaultCooldown
	}
	return max(0, d)
}

// SetOutlook sets the outlook of one family on one card. The zero Outlook
// clears it.
func (p *Pool) SetOutlook(card int, f Family, o Outlook) {
	res := resource{card, f}
	p.mu.Lock()
	same := p.outlooks[res] == o
	p.outlooks[res] = o
	p.mu.Unlock()
	if !same {
		p.recheckQueue()
	}
}

// Subscribe returns a channel that receives a value after the pool or its queue has
// changed, and a function that ends the subscription. Each subscription has its own
// channel, with a capacity of one, so several changes may result in one value. The pool
// never waits for a reader.
func (p *Pool) Subscribe() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers[c] = true
	return c, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.readers, c)
	}
}
