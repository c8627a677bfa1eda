// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// waiter is a request in the queue. The pool's mutex guards its fields until
// done is closed.
type waiter struct {
	request  Request
	since    time.Time
	deadline time.Time // zero if there is none
	granted  []Allocation
	err      error
	done     chan struct{}
	// retryAt is when the next cooldown ends that may serve this request; zero if
	// there is none or an older request waits for it. retryChanged receives when
	// retryAt changes.
	retryChanged chan struct{}
	retryAt      time.Time
}

// Allocate returns the addresses of r's attachment. If the attachment holds none
// yet, Allocate allocates one of each family, all or none, and returns when they
// are durable. Repeating a request returns the same addresses. Requesting a
// family of which the attachment holds no address is ErrConflict, and so is
// requesting another address or MAC.
//
// A request for certain addresses gets these or is refused, see Request.Addrs.
//
// If no address is available the request waits until ctx ends. Requests for the
// same card and family are served oldest first. If ctx ends, the error is an
// *ExhaustedError with the reason. The same error before ctx ends means that
// waiting is useless.
func (p *Pool) Allocate(ctx context.Context, r Request) ([]Allocation, error) {
	if err := r.normalize(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("allocate for %v: %w", r.Attachment, err)
	}
	w := &waiter{request: r, done: make(chan struct{}), retryChanged: make(chan struct{}, 1)}
	w.deadline, _ = ctx.Deadline()
	// If the journal fails, the error goes to w only if the batch had served w.
	// Otherwise w still waits, so the error of submit is not the answer to w.
	_ = p.submit(func(t *tx) error {
		w.since = t.now
		p.waiters = append(p.waiters, w)
		return nil
	})
	return p.wait(ctx, w)
}

// normalize checks r and sets defaults.
func (r *Request) normalize() error {
	if !r.Attachment.valid() {
		return fmt.Errorf("attachment %v needs a network, a container ID and an interface name: %w", r.Attachment, ErrInvalid)
	}
	if len(r.Families) == 0 {
		r.Families = []Family{IPv4}
	}
	for i, f := range r.Families {
		if f != IPv4 && f != IPv6 || slices.Contains(r.Families[:i], f) {
			return fmt.Errorf("families are %v, want IPv4 and IPv6, each at most once: %w", r.Families, ErrInvalid)
		}
	}
	if r.Card < 0 {
		return fmt.Errorf("card is %d, want 0 or more: %w", r.Card, ErrInvalid)
	}
	r.Families = slices.Clone(r.Families)
	return r.normalizeWanted()
}

// wait waits for the answer to w. The oldest request for a resource also makes
// the pool serve the queue again when a cooldown ends.
func (p *Pool) wait(ctx context.Context, w *waiter) ([]Allocation, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return w.granted, w.err
		case <-w.retryChanged:
			p.mu.Lock()
			at := w.retryAt
			p.mu.Unlock()
			timer.Stop()
			if !at.IsZero() {
				timer.Reset(time.Until(at))
			}
		case <-timer.C:
			p.recheckQueue()
		case <-ctx.Done():
			p.abandon(w, ctx.Err())
			<-w.done
			return w.granted, w.err
		}
	}
}

// abandon removes w from the queue and refuses it, unless w was answered in the
// meantime.
func (p *Pool) abandon(w *waiter, cause error) {
	_ = p.submit(func(t *tx) error {
		if i := slices.Index(p.waiters, w); i >= 0 {
			p.waiters = slices.Delete(p.waiters, i, i+1)
			e := p.newRound(t).refusal(w)
			e.err = cause
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
	// blocked are the resources for which an older request waits.
	blocked map[resource]bool
	short   map[resource]shortage
}

func (p *Pool) newRound(t *tx) *round {
	return &round{p, t, map[resource]bool{}, map[resource]shortage{}}
}

// serveQueue answers requests in the order of the queue, and returns those that
// it answered.
func (p *Pool) serveQueue(t *tx) []*waiter {
	var answered []*waiter
	r := p.newRound(t)
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool {
		ok := r.serve(w)
		if ok {
			answered = append(answered, w)
		}
		return ok
	})
	return answered
}

// serve answers w with addresses or a refusal and returns true, or leaves it
// waiting and returns false.
func (r *round) serve(w *waiter) bool {
	if g := r.st.held[w.request.Attachment]; g != nil {
		w.err = r.serveRepeated(g, w.request)
		w.granted = r.st.allocations(g)
		return true
	}
	if r.full() {
		w.err = r.refusal(w)
		return true
	}
	if e := r.st.judgeWanted(w.request, r.now); e != nil {
		e.Waited = r.now.Sub(w.since)
		w.setRetry(time.Time{})
		if e.Reason == ReasonLinkNotReady {
			return false // other requests need not wait for this ENI
		}
		w.err = e
		return true
	}
	if !r.mustQueue(w) || r.st.returnsAll(w.request, r.now) {
		addrs, missing := r.st.place(w.request, r.now)
		if missing == 0 {
			q := w.request
			w.err = r.do(Event{Kind: EventAllocated, Attachment: q.Attachment, Addrs: addrs, Pod: q.Pod, Netns: q.Netns, Sandbox: q.Sandbox, MAC: q.MAC})
			if g := r.st.held[q.Attachment]; g != nil {
				g.requestedAt = r.now
			}
			w.granted = r.st.allocations(r.st.held[q.Attachment])
			return true
		}
		w.setRetry(r.shortage(resource{w.request.Card, missing}).nextFree)
	} else {
		w.setRetry(time.Time{})
	}
	if r.waitIsUseless(w) {
		w.err = r.refusal(w)
		return true
	}
	for _, f := range w.request.Families {
		r.blocked[resource{w.request.Card, f}] = true
	}
	return false
}

// serveRepeated answers a request of an attachment that already holds addresses.
// The sandbox may be a new one.
func (r *round) serveRepeated(g *grant, q Request) error {
	g.requestedAt = r.now
	if err := errors.Join(checkFamilies(r.st.allocations(g), q), g.checkWanted(q)); err != nil || q.Netns == "" || q.Netns == g.netns && q.Sandbox == g.sandbox {
		return err
	}
	return r.do(Event{Kind: EventMoved, Attachment: q.Attachment, Netns: q.Netns, Sandbox: q.Sandbox})
}

// mustQueue reports whether an older request waits for a resource that w needs.
func (r *round) mustQueue(w *waiter) bool {
	return slices.ContainsFunc(w.request.Families, func(f Family) bool { return r.blocked[resource{w.request.Card, f}] })
}

// waitIsUseless reports whether no address can become available before w's
// deadline.
func (r *round) waitIsUseless(w *waiter) bool {
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

// setRetry sets the time at which the caller of w makes the pool serve the
// queue again.
func (w *waiter) setRetry(at time.Time) {
	if w.retryAt.Equal(at) {
		return
	}
	w.retryAt = at
	select {
	case w.retryChanged <- struct{}{}:
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

// checkFamilies checks that have includes an address of each family of q.
func checkFamilies(have []Allocation, q Request) error {
	for _, f := range q.Families {
		if !slices.ContainsFunc(have, func(a Allocation) bool { return FamilyOf(a.Addr) == f }) {
			return fmt.Errorf("%v has no %v address from its first request: %w", q.Attachment, f, ErrConflict)
		}
	}
	return nil
}

// full reports whether the pool has as many pods as it may have.
func (r *round) full() bool {
	return r.pool.maxPods > 0 && len(r.st.held)+r.pool.otherPods >= r.pool.maxPods
}

// refusal returns the error that says why w cannot be served.
func (r *round) refusal(w *waiter) *ExhaustedError {
	q := w.request
	e := &ExhaustedError{Attachment: q.Attachment, Family: q.Families[0], Card: q.Card, Waited: r.now.Sub(w.since)}
	if r.full() {
		e.Reason = ReasonPoolLimit
		e.Evidence = fmt.Sprintf("%d attachments hold addresses, the maximum is %d", len(r.st.held), r.pool.maxPods)
		if n := r.pool.otherPods; n > 0 {
			e.Evidence = fmt.Sprintf("%d attachments hold addresses and %d pods have ENIs of their own, the maximum is %d", len(r.st.held), n, r.pool.maxPods)
		}
		return e
	}
	if wanted := r.st.judgeWanted(q, r.now); wanted != nil {
		wanted.Waited = e.Waited
		return wanted
	}
	if _, missing := r.st.place(q, r.now); missing != 0 {
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
