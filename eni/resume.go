// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Resume finishes or undoes every operation that an earlier process, or an
// earlier call, left unfinished. Call it before the first Discover, and again
// after an operation failed with ErrThrottled, ErrUnreachable or ErrInFlight. An
// operation that cannot continue now stays in the journal, and Resume returns its
// error with those of the others.
//
// Resume takes nothing away that is in use. Before it asks EC2 anything, it
// cancels the operations that would. It may run in the background while the
// Manager is in use. If EC2 does not answer, it takes minutes.
func (m *Manager) Resume(ctx context.Context) error {
	if err := m.loadJournal(ctx); err != nil {
		return err
	}
	if len(m.unfinishedIntents()) == 0 {
		return nil
	}
	undecided := m.eachUnfinished(ctx, func(ctx context.Context, it Intent) error {
		_, _, err := m.cancelUsed(ctx, it)
		return err
	})
	if err := m.ensureDiscovered(ctx); err != nil {
		return errors.Join(undecided, err)
	}
	return m.eachUnfinished(ctx, m.resume) // this asks again about the undecided ones
}

// eachUnfinished calls do for each unfinished intent that no other operation has
// claimed, oldest first. It joins the errors.
func (m *Manager) eachUnfinished(ctx context.Context, do func(context.Context, Intent) error) error {
	var errs []error
	for _, it := range m.unfinishedIntents() {
		release, ok := m.claim(it.ID)
		if !ok {
			continue
		}
		if err := do(ctx, it); err != nil {
			errs = append(errs, fmt.Errorf("resume %s %s: %w", it.Op, it.ENI, err))
		}
		release()
	}
	return errors.Join(errs...)
}

// Unfinished lists the operations that are not finished, oldest first. It reads
// the journal, and makes no calls to EC2.
func (m *Manager) Unfinished(ctx context.Context) ([]Intent, error) {
	if err := m.loadJournal(ctx); err != nil {
		return nil, err
	}
	return m.unfinishedIntents(), nil
}

// resume continues one unfinished intent, unless the safe mode forbids it.
func (m *Manager) resume(ctx context.Context, it Intent) error {
	if err := m.permit(it.Op, it.ENI, it.removes()); err != nil {
		return err
	}
	if it.next(time.Now()) == stepCool {
		return nil
	}
	return m.withRest(restKey{op: it.Op, eni: it.ENI, kind: it.Kind, short: true}, func() error {
		switch it.Op {
		case OpAssign:
			return m.resumeAssign(ctx, it)
		case OpUnassign:
			return m.resumeUnassign(ctx, it)
		}
		return m.resumeENI(ctx, it)
	})
}

// resumeENI continues an intent that adds or removes an ENI, beginning from the
// ENI's present state at EC2. It cancels a removal if a pod uses the ENI by now.
func (m *Manager) resumeENI(ctx context.Context, it Intent) error {
	it, err := m.refresh(ctx, it)
	if err != nil {
		return err
	}
	it, remains, err := m.cancelUsed(ctx, it)
	if err != nil || !remains {
		return err
	}
	if it.Op == OpRetire && it.Kind == KindTrunk && !it.Detached {
		if carries, err := m.hasBranches(ctx, it.ENI); err != nil {
			return err
		} else if carries {
			return m.cancelIntent(ctx, it)
		}
	}
	_, err = m.drive(ctx, it)
	return err
}

// resumeAssign asks EC2 once more which blocks an assign call added. If EC2 has
// had time to show them and does not, the call added none.
func (m *Manager) resumeAssign(ctx context.Context, it Intent) error {
	e, _, err := m.ec2.describeENI(ctx, it.ENI)
	if err != nil {
		return err
	}
	if got := m.newBlocks(e, it); len(got) > 0 {
		return m.recordAssigned(ctx, it, got)
	}
	if m.lagPassed(it) {
		return m.removeIntent(ctx, it.ID)
	}
	return nil
}

// resumeUnassign continues an unassign with the blocks that no pod uses by now.
func (m *Manager) resumeUnassign(ctx context.Context, it Intent) error {
	it, remains, err := m.cancelUsedBlocks(ctx, it)
	if err != nil || !remains {
		return err
	}
	it.Doubt = true // an earlier call may have unassigned some, whatever EC2 answers now
	if err := m.putIntent(ctx, it); err != nil {
		return err
	}
	err = m.unassignBlocks(ctx, it)
	if blocksMissing(err) && !m.lagPassed(it) {
		return nil // EC2 lists the blocks, but the listing may be older than the call
	}
	return err
}
