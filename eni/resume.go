// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Resume finishes or undoes every operation that an earlier process, or an
// earlier call, left open. Call it before the first Discover, and again when an
// operation ended with ErrThrottled, ErrUnreachable or ErrInFlight. What cannot
// go on now stays in the journal, and its error is part of the result.
//
// Nothing in use is taken away: an operation that was about to is called off.
func (m *Manager) Resume(ctx context.Context) error {
	if err := m.load(ctx); err != nil {
		return err
	}
	open := m.openIntents()
	if len(open) == 0 {
		return nil
	}
	if err := m.discovered(ctx); err != nil {
		return err
	}
	var errs []error
	for _, it := range open {
		release, ok := m.hold(it.ID)
		if !ok {
			continue // someone is at it
		}
		if err := m.resume(ctx, it); err != nil {
			errs = append(errs, fmt.Errorf("resume %s %s: %w", it.Op, it.ENI, err))
		}
		release()
	}
	return errors.Join(errs...)
}

// Open lists the operations that are not finished, oldest first.
func (m *Manager) Open(ctx context.Context) ([]Intent, error) {
	if err := m.load(ctx); err != nil {
		return nil, err
	}
	return m.openIntents(), nil
}

func (m *Manager) resume(ctx context.Context, it Intent) error {
	takesAway := it.Undo || it.Op == OpRetire || it.Op == OpUnassign || it.Op == OpRetireBranch
	if err := m.permit(it.Op, it.ENI, takesAway); err != nil {
		return err
	}
	if it.next(time.Now()) == stepCool {
		return nil
	}
	switch it.Op {
	case OpAssign:
		return m.resumeAssign(ctx, it)
	case OpUnassign:
		return m.resumeUnassign(ctx, it)
	case OpRetire:
		return m.resumeRetire(ctx, m.look(ctx, it))
	}
	_, err := m.drive(ctx, m.look(ctx, it))
	return err
}

// resumeRetire goes on unless someone has come to use the ENI.
func (m *Manager) resumeRetire(ctx context.Context, it Intent) error {
	if e, ok := m.Inventory().ENI(it.ENI); ok && !it.Detached {
		used := m.anyInUse(e)
		if it.Kind == KindTrunk && !used {
			var err error
			if used, err = m.carries(ctx, it.ENI); err != nil {
				return err
			}
		}
		if used {
			return m.callOff(ctx, it)
		}
	}
	_, err := m.drive(ctx, it)
	return err
}

func (m *Manager) anyInUse(e ENI) bool {
	return slices.ContainsFunc(slices.Concat(e.Blocks(), e.Doubtful), func(b netip.Prefix) bool { return m.cfg.InUse(e.ID, b) })
}

// resumeAssign looks once more for what came. When EC2 has had time to show it
// and does not, nothing came.
func (m *Manager) resumeAssign(ctx context.Context, it Intent) error {
	e, there, err := m.ec2.describeENI(ctx, it.ENI)
	if err != nil {
		return err
	}
	if got := m.newOn(e, it); len(got) > 0 {
		return m.came(ctx, it, got)
	}
	if !there || time.Since(it.Changed) > m.cfg.Lag {
		return m.forget(ctx, it.ID)
	}
	return nil
}

// resumeUnassign goes on with what nobody has come to use.
func (m *Manager) resumeUnassign(ctx context.Context, it Intent) error {
	it.Blocks = slices.DeleteFunc(slices.Clone(it.Blocks), func(b netip.Prefix) bool { return m.cfg.InUse(it.ENI, b) })
	if len(it.Blocks) == 0 {
		return m.forget(ctx, it.ID)
	}
	it.Doubt = true // some may be off already, whatever EC2 says now
	if err := m.put(ctx, it); err != nil {
		return err
	}
	return m.takeOff(ctx, it)
}
