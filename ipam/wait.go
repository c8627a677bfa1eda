// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// waiter is a request that is not yet served. Its fields belong to the pool's
// mutex until done is closed.
type waiter struct {
	request  Request
	since    time.Time
	deadline time.Time // zero if there is none
	granted  []Allocation
	err      error
	done     chan struct{}
	// look receives when retryAt changed, which is when a cooling address will
	// be ready for this request; zero if another request has to look for it.
	look    chan struct{}
	retryAt time.Time
}

// Allocate returns the addresses of r's attachment. If it holds none yet it
// gets one of each family, all or none, and they are durable when Allocate
// returns. Asking again returns the same answer; asking for a family that the
// attachment does not hold is ErrConflict.
//
// If there is no address the request waits for its turn, oldest first among
// those of the same card and family, until ctx ends. The error is then an
// *ExhaustedError with the reason; one that comes early says that waiting is
// useless.
func (p *Pool) Allocate(ctx context.Context, r Request) ([]Allocation, error) {
	if err := r.normalize(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("allocate for %v: %w", r.Attachment, err)
	}
	w := &waiter{request: r, done: make(chan struct{}), look: make(chan struct{}, 1)}
	w.deadline, _ = ctx.Deadline()
	// A batch that the journal refused settles those it had served; anyone else
	// goes on waiting, so the error says nothing about w.
	_ = p.submit(func(t *tx) error {
		w.since = t.now
		p.waiters = append(p.waiters, w)
		return nil
	})
	return p.wait(ctx, w)
}

// normalize checks r and fills in what is left out.
func (r *Request) normalize() error {
	if !r.Attachment.valid() {
		return fmt.Errorf("attachment %v: network, container ID and interface name are needed: %w", r.Attachment, ErrInvalid)
	}
	if len(r.Families) == 0 {
		r.Families = []Family{IPv4}
	}
	for i, f := range r.Families {
		if f != IPv4 && f != IPv6 || slices.Contains(r.Families[:i], f) {
			return fmt.Errorf("families %v: %w", r.Families, ErrInvalid)
		}
	}
	if r.Card < 0 {
		return fmt.Errorf("card %d: %w", r.Card, ErrInvalid)
	}
	r.Families = slices.Clone(r.Families)
	return nil
}

// wait waits for the outcome of w. Whoever waits first for a resource also
// wakes the pool when an address has rested.
func (p *Pool) wait(ctx context.Context, w *waiter) ([]Allocation, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return w.granted, w.err
		case <-w.look:
			p.mu.Lock()
			at := w.retryAt
			p.mu.Unlock()
			timer.Stop()
			if !at.IsZero() {
				timer.Reset(time.Until(at))
			}
		case <-timer.C:
			_ = p.submit(func(*tx) error { return nil })
		case <-ctx.Done():
			p.abandon(w, ctx.Err())
			<-w.done
			return w.granted, w.err
		}
	}
}

// abandon takes w out of the queue, unless it was settled meanwhile.
func (p *Pool) abandon(w *waiter, cause error) {
	_ = p.submit(func(t *tx) error {
		if i := slices.Index(p.waiters, w); i >= 0 {
			p.waiters = slices.Delete(p.waiters, i, i+1)
			e := p.newRound(t).refusal(w)
			e.Err = cause
			w.err = e
			close(w.done)
		}
		return nil
	})
}

// round is one pass over the queue.
type round struct {
	pool *Pool
	*tx
	// blocked are the resources that an older request waits for.
	blocked map[resource]bool
	short   map[resource]shortage
}

func (p *Pool) newRound(t *tx) *round {
	return &round{p, t, map[resource]bool{}, map[resource]shortage{}}
}

// serve settles whom it can, in the order of the queue, and returns them.
func (p *Pool) serve(t *tx) []*waiter {
	var settled []*waiter
	r := p.newRound(t)
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool {
		ok := r.settle(w)
		if ok {
			settled = append(settled, w)
		}
		return ok
	})
	return settled
}

// settle serves or refuses w, or leaves it waiting.
func (r *round) settle(w *waiter) bool {
	if g := r.st.held[w.request.Attachment]; g != nil {
		w.err = r.again(g, w.request)
		w.granted = r.st.allocations(g)
		return true
	}
	if r.pool.maxPods > 0 && len(r.st.held) >= r.pool.maxPods {
		w.err = r.refusal(w)
		return true
	}
	if !r.queued(w) {
		addrs, missing := r.st.place(w.request, r.now)
		if missing == 0 {
			q := w.request
			w.err = r.do(Event{Kind: EventAllocated, Attachment: q.Attachment, Addrs: addrs, Pod: q.Pod, Netns: q.Netns, Sandbox: q.Sandbox})
			if g := r.st.held[q.Attachment]; g != nil {
				g.asked = r.now
			}
			w.granted = r.st.allocations(r.st.held[q.Attachment])
			return true
		}
		w.retry(r.shortage(resource{w.request.Card, missing}).nextFree)
	} else {
		w.retry(time.Time{})
	}
	if r.useless(w) {
		w.err = r.refusal(w)
		return true
	}
	for _, f := range w.request.Families {
		r.blocked[resource{w.request.Card, f}] = true
	}
	return false
}

// again answers a request of an attachment that holds addresses already. Its
// sandbox may be a new one.
func (r *round) again(g *grant, q Request) error {
	g.asked = r.now
	if err := covers(r.st.allocations(g), q); err != nil || q.Netns == "" || q.Netns == g.netns && q.Sandbox == g.sandbox {
		return err
	}
	return r.do(Event{Kind: EventMoved, Attachment: q.Attachment, Netns: q.Netns, Sandbox: q.Sandbox})
}

// queued says whether an older request waits for something that w wants.
func (r *round) queued(w *waiter) bool {
	return slices.ContainsFunc(w.request.Families, func(f Family) bool { return r.blocked[resource{w.request.Card, f}] })
}

// useless says whether no address can come before w's time is up.
func (r *round) useless(w *waiter) bool {
	for _, f := range w.request.Families {
		res := resource{w.request.Card, f}
		if !r.pool.outlooks[res].Final {
			continue
		}
		next := r.shortage(res).nextFree
		if next.IsZero() || !w.deadline.IsZero() && next.After(w.deadline) {
			return true
		}
	}
	return false
}

// retry tells w when to look for a rested address.
func (w *waiter) retry(at time.Time) {
	if w.retryAt.Equal(at) {
		return
	}
	w.retryAt = at
	select {
	case w.look <- struct{}{}:
	default:
	}
}

func (r *round) shortage(res resource) shortage {
	n, ok := r.short[res]
	if !ok {
		n = r.st.shortage(res, r.now)
		r.short[res] = n
	}
	return n
}

// covers checks that what an attachment holds is what it asks for.
func covers(have []Allocation, q Request) error {
	for _, f := range q.Families {
		if !slices.ContainsFunc(have, func(a Allocation) bool { return FamilyOf(a.Addr) == f }) {
			return fmt.Errorf("%v holds no %v address from its first request: %w", q.Attachment, f, ErrConflict)
		}
	}
	return nil
}

// refusal says why w gets nothing.
func (r *round) refusal(w *waiter) *ExhaustedError {
	e := &ExhaustedError{Attachment: w.request.Attachment, Card: w.request.Card, Waited: r.now.Sub(w.since)}
	if e.Family = w.request.Families[0]; r.pool.maxPods > 0 && len(r.st.held) >= r.pool.maxPods {
		e.Reason = ReasonPoolLimit
		e.Evidence = fmt.Sprintf("%d attachments hold addresses, of at most %d", len(r.st.held), r.pool.maxPods)
		return e
	}
	if _, missing := r.st.place(w.request, r.now); missing != 0 {
		e.Family = missing
	}
	res := resource{e.Card, e.Family}
	n, o := r.shortage(res), r.pool.outlooks[res]
	e.Reason, e.Evidence = n.reason(), n.String()
	retryAt := n.nextFree
	if o.Reason != "" && (n.cooling == 0 || !o.Final) {
		e.Reason = o.Reason
		if o.RetryAt.After(r.now) && (retryAt.IsZero() || o.RetryAt.Before(retryAt)) {
			retryAt = o.RetryAt
		}
	}
	if o.Evidence != "" {
		e.Evidence = o.Evidence + "; " + e.Evidence
	}
	if retryAt.After(r.now) {
		e.RetryAfter = retryAt.Sub(r.now)
	}
	return e
}
