// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"slices"
	"sync"
	"time"
)

// spacing keeps apart the calls of an action that fails: after each failure in a row
// the next call of the action waits longer, up to backoffMax. It bounds the calls that
// change something whatever the callers do. A caller on another ENI waits too, because
// most of these failures concern the account or the way to EC2.
type spacing struct {
	mu   sync.Mutex
	next map[string]nextCall // by action
}

// nextCall is when an action may be called again after a number of failures in a row.
type nextCall struct {
	at    time.Time
	inRow int
}

// spaced says which failures keep calls apart. After throttling the budget slows down.
// The Manager itself remembers denials, and what EC2 says about limits and full subnets
// when it refuses to fill an ENI.
func spaced(action string, failed *OpError) bool {
	remembered := errorRow{calls: toFill}.isAbout(action) && slices.Contains([]Reason{
		ReasonSubnetFull, ReasonNoFreePrefix, ReasonENILimit, ReasonSlotLimit,
	}, failed.reason)
	return !failed.rest && failed.reason != ReasonThrottled && !remembered
}

// wait blocks until the action may be called, or until ctx ends.
func (s *spacing) wait(ctx context.Context, action string) error {
	s.mu.Lock()
	left := time.Until(s.next[action].at)
	s.mu.Unlock()
	if left <= 0 {
		return ctx.Err()
	}
	return sleep(ctx, left)
}

// record stores the outcome of a call. failed is nil if the call was successful.
func (s *spacing) record(action string, failed *OpError, random float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed == nil || !spaced(action, failed) {
		delete(s.next, action)
		return
	}
	n := s.next[action]
	n.inRow++
	n.at = time.Now().Add(backoff(backoffFirst, n.inRow, random))
	s.next[action] = n
}
