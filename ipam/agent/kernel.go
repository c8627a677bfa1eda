// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// Kernel reports which addresses are in use on the node, independently of the
// pool's journal.
type Kernel interface {
	// Uses returns every address in use at one moment: those to which a route to
	// a pod leads, and the node's own.
	Uses(ctx context.Context) ([]ipam.Use, error)
	// Dead returns the allocations of pods that have ended: the sandbox is gone or
	// another one has taken its path, and the link on the node is gone too. In case of doubt a pod has not ended.
	Dead(ctx context.Context, held []ipam.Allocation) ([]ipam.Allocation, error)
}

// EventKind is the kind of an Event.
type EventKind string

// The kinds of events.
const (
	// EventQuarantined: an address is in use that no attachment holds.
	EventQuarantined EventKind = "address-quarantined"
	// EventUnquarantined: the use of a quarantined address has ended.
	EventUnquarantined EventKind = "quarantine-lifted"
	// EventReclaimed: the agent released an attachment after its sandbox had ended without a DEL.
	EventReclaimed EventKind = "sandbox-reclaimed"
)

// Event is an event for operators that no request of a pod has caused.
type Event struct {
	At         time.Time       `json:"at"`
	Kind       EventKind       `json:"kind"`
	Addr       netip.Addr      `json:"addr,omitzero"`
	ENI        string          `json:"eni,omitempty"`
	Attachment ipam.Attachment `json:"attachment,omitzero"`
	// Text says what happened and why, for an operator.
	Text string `json:"text"`
}

const (
	// auditEvery is the time between two audits. The agent releases an attachment
	// after two audits have found that its sandbox ended without a DEL.
	auditEvery = 20 * time.Second
	// auditEveryWaiting is the time between two audits while pods wait.
	auditEveryWaiting = 2 * time.Second
	// setupGrace is how long an attachment is safe from being found dead after its
	// last request, because its plugin may still be at work.
	setupGrace = 10 * time.Second
)

// suspect is an attachment that one audit has found to have no sandbox.
type suspect struct {
	requestedAt time.Time // the last request of the attachment
	deadSince   time.Time
}

// audit asks the kernel which addresses are in use: at the start, when blocks
// were added, every auditEvery, and more often while pods wait.
func (l *loop) audit(v ipam.View, wake *earliest) {
	k := key{kind: kindAudit}
	if l.cfg.Kernel == nil || !l.ready(k, v.At) {
		return
	}
	every, podsWait := auditEvery, len(v.Waiting) > 0
	if podsWait {
		every = auditEveryWaiting
	}
	due := l.auditedAt.Add(every)
	if at := l.suspectsDue(); !at.IsZero() && at.Before(due) {
		due = at
	}
	if l.auditDue {
		due = l.auditNotBefore
	}
	if due.After(v.At) {
		wake.add(due, v.At)
		return
	}
	// The first audit follows the release at the start of Run.
	collected := l.deadCollected && l.auditedAt.IsZero()
	l.auditedAt, l.auditDue = v.At, false
	l.start(k, task{}, func(ctx context.Context) func() {
		// Dead attachments are released first: with an outdated journal, their
		// address may belong to another pod, for which Uses must quarantine it.
		var deadErr error
		if !collected {
			_, deadErr = l.collectDead(ctx, podsWait)
		}
		began := time.Now()
		uses, err := l.cfg.Kernel.Uses(ctx)
		return func() {
			if err == nil {
				err = l.quarantine(began, uses)
			}
			l.usesKnown = l.usesKnown || err == nil
			if err = errors.Join(err, deadErr); err != nil && !l.stopping {
				l.auditDue, l.auditNotBefore = true, time.Now().Add(auditEveryWaiting)
				l.log.Warn("audit failed", "retryIn", auditEveryWaiting, "err", err)
			}
		}
	})
}

// knowsUses reports whether an audit has succeeded since Run began. Before that
// no address becomes allocatable.
func (l *loop) knowsUses() bool { return l.cfg.Kernel == nil || l.usesKnown }

// quarantine passes the uses of an audit to the pool, and logs the changes.
func (l *loop) quarantine(began time.Time, uses []ipam.Use) error {
	added, lifted, err := l.cfg.Pool.Quarantine(began, uses)
	for _, q := range added {
		l.log.Warn("address quarantined: in use, but no attachment holds it", "addr", q.Addr, "eni", q.ENI, "by", q.By)
		l.notify(Event{Kind: EventQuarantined, Addr: q.Addr, ENI: q.ENI, Text: "used by " + q.By + ", which no attachment holds"})
	}
	for _, q := range lifted {
		l.log.Info("quarantine lifted", "addr", q.Addr, "eni", q.ENI, "by", q.By)
		l.notify(Event{Kind: EventUnquarantined, Addr: q.Addr, ENI: q.ENI, Text: "no longer used by " + q.By})
	}
	return err
}

func (a *Agent) notify(e Event) {
	if a.cfg.Notify != nil {
		e.At = time.Now()
		a.cfg.Notify(e)
	}
}

// collectDead releases the attachments of sandboxes that ended without a DEL, if
// the kernel has reported them dead twice. If urgent is set, because a pod waits
// for an address, once is enough. It returns the number of released allocations.
func (a *Agent) collectDead(ctx context.Context, urgent bool) (int, error) {
	if a.cfg.Kernel == nil {
		return 0, nil
	}
	all, n := a.cfg.Pool.Allocations(), 0
	for range all {
		n++
	}
	held := slices.AppendSeq(make([]ipam.Allocation, 0, n), all)
	var dead []ipam.Allocation
	if len(held) > 0 {
		var err error
		if dead, err = a.cfg.Kernel.Dead(ctx, held); err != nil {
			return 0, fmt.Errorf("find ended sandboxes: %w", err)
		}
	}
	due := a.updateSuspects(dead, time.Now(), urgent)
	if len(due) == 0 {
		return 0, nil
	}
	released, err := a.cfg.Pool.ReleaseIf(func(al ipam.Allocation) bool {
		at, ok := due[al.Attachment]
		return ok && at.Equal(al.LastRequest()) // not requested again since
	})
	for _, al := range released {
		a.log.Info("released: sandbox ended without DEL", "attachment", al.Attachment, "addr", al.Addr, "sandbox", al.Netns)
		a.notify(Event{Kind: EventReclaimed, Addr: al.Addr, ENI: al.ENI, Attachment: al.Attachment,
			Text: "the sandbox and its link are gone without a DEL"})
	}
	if a.cfg.Released != nil && len(released) > 0 {
		a.cfg.Released(released)
	}
	return len(released), err
}

// suspectsDue returns when the first suspect may be released if it is still dead
// then; zero if there is no suspect.
func (a *Agent) suspectsDue() (first time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.suspects {
		if at := s.deadSince.Add(setupGrace); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// updateSuspects records which attachments are dead now. It returns the
// attachments that may be released, each with the time of its last request.
func (a *Agent) updateSuspects(dead []ipam.Allocation, now time.Time, urgent bool) map[ipam.Attachment]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	still, due := map[ipam.Attachment]suspect{}, map[ipam.Attachment]time.Time{}
	for _, al := range dead {
		s, known := a.suspects[al.Attachment]
		if !known || !s.requestedAt.Equal(al.LastRequest()) {
			s = suspect{al.LastRequest(), now}
		}
		twice := now.Sub(s.deadSince) >= setupGrace
		if twice || urgent && now.Sub(al.LastRequest()) >= setupGrace {
			due[al.Attachment] = al.LastRequest()
			continue
		}
		still[al.Attachment] = s
	}
	a.suspects = still
	return due
}
