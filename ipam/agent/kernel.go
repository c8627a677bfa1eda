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

// Kernel is the node's kernel as a witness of what is in use, whatever the
// journal of the pool says.
type Kernel interface {
	// Uses returns, from one look, every address that something on the node uses: a
	// route to a pod leads there, or it is the node's own.
	Uses(ctx context.Context) ([]ipam.Use, error)
	// Dead returns those of the allocations whose pod has ended: its sandbox is
	// gone or another one has taken its path, and its link on the node is gone
	// too. What cannot be told is not dead.
	Dead(ctx context.Context, held []ipam.Allocation) ([]ipam.Allocation, error)
}

// EventKind is the kind of an Event.
type EventKind string

// The kinds of events.
const (
	// EventQuarantined: something uses an address that no attachment holds.
	EventQuarantined EventKind = "address-quarantined"
	// EventUnquarantined: that use has ended.
	EventUnquarantined EventKind = "quarantine-lifted"
	// EventReclaimed: an attachment whose sandbox ended without a DEL was released.
	EventReclaimed EventKind = "sandbox-reclaimed"
)

// Event is something that happened beside the requests of pods and that an
// operator wants to know of.
type Event struct {
	At         time.Time       `json:"at"`
	Kind       EventKind       `json:"kind"`
	Addr       netip.Addr      `json:"addr,omitzero"`
	ENI        string          `json:"eni,omitempty"`
	Attachment ipam.Attachment `json:"attachment,omitzero"`
	// Text says what happened and why, for a person.
	Text string `json:"text"`
}

const (
	// auditEvery is how often the kernel is asked what is in use. A sandbox that
	// ended without a DEL is found dead twice before it is collected.
	auditEvery = 20 * time.Second
	// auditPressed is how often the kernel is asked while pods wait.
	auditPressed = 2 * time.Second
	// wiringTime is how long after its last request an attachment is not collected:
	// its plugin may be at work.
	wiringTime = 10 * time.Second
)

// suspect is an attachment that was found dead.
type suspect struct {
	asked time.Time // the last request of the attachment
	since time.Time
}

// audit asks the kernel what is in use: at the start, when blocks have come, from
// time to time, and more often while pods wait.
func (l *loop) audit(v ipam.View, wake *earliest) {
	k := key{kind: kindAudit}
	if l.cfg.Kernel == nil || !l.ready(k, v.At) {
		return
	}
	every, pressed := auditEvery, len(v.Waiting) > 0
	if pressed {
		every = auditPressed
	}
	due := l.audited.Add(every)
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
	l.audited, l.auditDue = v.At, false
	l.start(k, task{}, func(ctx context.Context) func() {
		// First what has ended: an address that it held may be another pod's by now,
		// of which an old journal knows nothing.
		_, deadErr := l.collectDead(ctx, pressed)
		began := time.Now()
		uses, err := l.cfg.Kernel.Uses(ctx)
		return func() {
			if err == nil {
				err = l.quarantine(began, uses)
			}
			l.seen = l.seen || err == nil
			if err = errors.Join(err, deadErr); err != nil && l.ctx.Err() == nil {
				l.auditDue, l.auditNotBefore = true, time.Now().Add(auditPressed)
				l.log.Warn("kernel not asked what is in use", "retryIn", auditPressed, "err", err)
			}
		}
	})
}

// witnessed reports whether the kernel has said once what is in use. Before that
// no address becomes allocatable.
func (l *loop) witnessed() bool { return l.cfg.Kernel == nil || l.seen }

// quarantine tells the pool what a look has shown, and tells of what changed.
func (l *loop) quarantine(began time.Time, uses []ipam.Use) error {
	added, lifted, err := l.cfg.Pool.Quarantine(began, uses)
	for _, q := range added {
		l.log.Warn("address quarantined: something uses it that the journal does not know", "addr", q.Addr, "eni", q.ENI, "by", q.By)
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

// collectDead releases what belongs to sandboxes that ended without a DEL, if
// the kernel has shown them dead twice; if pressed, because a pod goes without
// an address, once is enough. It returns how many attachments were released.
func (a *Agent) collectDead(ctx context.Context, pressed bool) (int, error) {
	held := slices.Collect(a.cfg.Pool.Allocations())
	if a.cfg.Kernel == nil {
		return 0, nil
	}
	var dead []ipam.Allocation
	if len(held) > 0 {
		var err error
		if dead, err = a.cfg.Kernel.Dead(ctx, held); err != nil {
			return 0, fmt.Errorf("find sandboxes that have ended: %w", err)
		}
	}
	due := a.suspectDead(dead, time.Now(), pressed)
	if len(due) == 0 {
		return 0, nil
	}
	released, err := a.cfg.Pool.ReleaseIf(func(al ipam.Allocation) bool {
		at, ok := due[al.Attachment]
		return ok && at.Equal(al.Last()) // not one that was asked for since
	})
	for _, al := range released {
		a.log.Info("released: sandbox ended without DEL", "attachment", al.Attachment, "addr", al.Addr, "sandbox", al.Netns)
		a.notify(Event{Kind: EventReclaimed, Addr: al.Addr, ENI: al.ENI, Attachment: al.Attachment,
			Text: "the sandbox and its link are gone, and no DEL came"})
	}
	return len(released), err
}

// suspectsDue returns when the first suspect may be released, if it is still dead
// then; zero if there is none.
func (a *Agent) suspectsDue() (first time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.suspects {
		if at := s.since.Add(wiringTime); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// suspectDead notes which attachments are dead now and returns, by the time of
// its last request, each that may be released.
func (a *Agent) suspectDead(dead []ipam.Allocation, now time.Time, pressed bool) map[ipam.Attachment]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	still, due := map[ipam.Attachment]suspect{}, map[ipam.Attachment]time.Time{}
	for _, al := range dead {
		s, known := a.suspects[al.Attachment]
		if !known || !s.asked.Equal(al.Last()) {
			s = suspect{al.Last(), now}
		}
		twice := now.Sub(s.since) >= wiringTime
		if twice || pressed && now.Sub(al.Last()) >= wiringTime {
			due[al.Attachment] = al.Last()
			continue
		}
		still[al.Attachment] = s
	}
	a.suspects = still
	return due
}
