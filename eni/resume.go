// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Resume finishes or undoes every operation that an earlier process, or an
// earlier call, left open. Call it before the first Discover, and again when an
// operation ended with ErrThrottled, ErrUnreachable or ErrInFlight. What cannot
// go on now stays in the journal, and its error is part of the result.
//
// Nothing in use is taken away: an operation that was about to is called off,
// before EC2 is asked anything. Resume may run in the background while the
// Manager is used otherwise; where EC2 does not answer it takes minutes.
func (m *Manager) Resume(ctx context.Context) error {
	if err := m.load(ctx); err != nil {
		return err
	}
	if len(m.openIntents()) == 0 {
		return nil
	}
	uncertain := m.eachOpen(ctx, func(ctx context.Context, it Intent) error {
		_, _, err := m.callOffUsed(ctx, it)
		return err
	})
	if err := m.discovered(ctx); err != nil {
		return errors.Join(uncertain, err)
	}
	return m.eachOpen(ctx, m.resume) // what was uncertain is asked again
}

// eachOpen does something for each open intent that no other operation works
// on, oldest first. It joins the errors.
func (m *Manager) eachOpen(ctx context.Context, do func(context.Context, Intent) error) error {
	var errs []error
	for _, it := range m.openIntents() {
		release, ok := m.hold(it.ID)
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

// Open lists the operations that are not finished, oldest first.
func (m *Manager) Open(ctx context.Context) ([]Intent, error) {
	if err := m.load(ctx); err != nil {
		return nil, err
	}
	return m.openIntents(), nil
}

func (m *Manager) resume(ctx context.Context, it Intent) error {
	if err := m.permit(it.Op, it.ENI, it.takesAway()); err != nil {
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
	}
	return m.resumeENI(ctx, it)
}

// resumeENI goes on with the intent to bring an ENI in or out, as EC2 shows the
// ENI now, unless a pod has come to use an ENI on its way out.
func (m *Manager) resumeENI(ctx context.Context, it Intent) error {
	it, err := m.look(ctx, it)
	if err != nil {
		return err
	}
	it, left, err := m.callOffUsed(ctx, it)
	if err != nil || !left {
		return err
	}
	if it.Op == OpRetire && it.Kind == KindTrunk && !it.Detached {
		if carries, err := m.carries(ctx, it.ENI); err != nil {
			return err
		} else if carries {
			return m.callOff(ctx, it)
		}
	}
	_, err = m.drive(ctx, it)
	return err
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
	if !there || m.settled(it) {
		return m.forget(ctx, it.ID)
	}
	return nil
}

// resumeUnassign goes on with what nobody has come to use.
func (m *Manager) resumeUnassign(ctx context.Context, it Intent) error {
	it, left, err := m.callOffBlocks(ctx, it)
	if err != nil || !left {
		return err
	}
	it.Doubt = true // some may be off already, whatever EC2 says now
	if err := m.put(ctx, it); err != nil {
		return err
	}
	return m.takeOff(ctx, it)
}
