// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// How long an operation rests after EC2 has denied one of its calls for want of a
// permission: restFirst after the first denial, twice as long after each further
// one, up to restMost. Only an operator can end the cause, and an operation such as
// Provision makes and undoes several calls before it reaches the denied one.
const (
	restFirst = 2 * time.Minute
	restMost  = 16 * time.Minute
	// restShort is the rest of operations that cost only one denied call: a describe
	// call of Discover, and an unfinished operation that Resume continues. It is also
	// the first rest of an operation that was undone for another reason.
	restShort = 30 * time.Second
)

// restKey identifies the operations that rest together.
type restKey struct {
	op     Op
	eni    string // empty for operations that create an ENI
	kind   Kind   // of the ENI to create
	family Family
	short  bool // rests for restShort
}

// rest is a failure and how long it counts.
type rest struct {
	refusal
	err *OpError
}

// withRest runs an operation, unless it rests after a failure. Then withRest returns
// the error of that failure again.
func (m *Manager) withRest(key restKey, operation func() error) error {
	now := time.Now()
	m.mu.Lock()
	r, denied := m.rests[key]
	m.mu.Unlock()
	if left := r.until.Sub(now); denied && left > 0 {
		again := *r.err
		again.retryAfter = left
		again.Err = fmt.Errorf("not tried again for %v: %w", left.Round(time.Second), r.err.Err)
		return &again
	}
	err := operation()
	var op *OpError
	errors.As(err, &op)
	now = time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case op != nil && (op.rest || op.undone):
		first := restFirst
		if !op.rest {
			first = restShort
		}
		r.refusal = r.next(0, now, first, restMost)
		if key.short {
			r.until = now.Add(restShort)
		}
		op.retryAfter = r.until.Sub(now)
		kept := *op
		r.err = &kept
		m.rests[key] = r
	case err == nil:
		delete(m.rests, key)
	}
	return err
}

// afterUndo marks the error of an operation that has created an ENI and removed it
// again, so that the operation rests. A refused attach because of a full subnet or of
// a limit is remembered elsewhere.
func afterUndo(it Intent, err error) {
	var op *OpError
	if !it.Undo || !it.Done || !errors.As(err, &op) {
		return
	}
	remembered := it.Op == OpProvision && !it.Attached && slices.Contains([]Reason{
		ReasonSubnetFull, ReasonNoFreePrefix, ReasonENILimit, ReasonSlotLimit,
	}, op.reason)
	op.undone = !remembered
}
