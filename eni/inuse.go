// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// anyUsed asks Config.InUse about blocks of an ENI and returns the first one in
// use. Its error means that the question is open.
func (m *Manager) anyUsed(ctx context.Context, op Op, id string, blocks []netip.Prefix) (netip.Prefix, bool, error) {
	for _, b := range blocks {
		used, err := m.cfg.InUse(ctx, id, b)
		if err != nil {
			return b, false, &OpError{Op: string(op), ENI: id, Why: ReasonInUse, Err: fmt.Errorf("is %s in use: %w", b, err)}
		}
		if used {
			return b, true, nil
		}
	}
	return netip.Prefix{}, false, nil
}

// free returns nil only if all blocks of an ENI are known to be free, else an
// *OpError with ReasonInUse.
func (m *Manager) free(ctx context.Context, op Op, id string, blocks []netip.Prefix) error {
	b, used, err := m.anyUsed(ctx, op, id, blocks)
	if used {
		return &OpError{Op: string(op), ENI: id, Why: ReasonInUse, Err: fmt.Errorf("%s is in use", b)}
	}
	return err
}

// whileFree is the condition that blocks of an ENI are free.
func (m *Manager) whileFree(op Op, id string, blocks []netip.Prefix) condition {
	return func(ctx context.Context) error { return m.free(ctx, op, id, blocks) }
}

// whileUnused is the condition that nothing of an intent's ENI is in use.
func (m *Manager) whileUnused(it Intent) condition {
	return func(ctx context.Context) error { return m.free(ctx, it.Op, it.ENI, m.allBlocks(it)) }
}

// allBlocks lists every block of an intent's ENI that is known: those that EC2
// showed, those of the inventory, and those the ENI was made with. The own
// addresses of a branch ENI are among them, since its pod has those.
func (m *Manager) allBlocks(it Intent) []netip.Prefix {
	out := slices.Concat(it.Before, it.Blocks)
	if it.Made != nil {
		out = append(out, it.Made.Blocks()...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.inv.ENI(it.ENI); ok {
		out = slices.Concat(out, e.Blocks(), e.Doubtful)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// callOffUsed calls off what an open intent would take away from a pod. It makes
// no call to EC2, so that an intent of a journal that is too old does no harm
// also while EC2 does not answer. It returns what is left of the intent; false
// if nothing is.
func (m *Manager) callOffUsed(ctx context.Context, it Intent) (Intent, bool, error) {
	switch {
	case it.Op == OpUnassign:
		return m.callOffBlocks(ctx, it)
	case it.Op == OpRetireBranch, it.takesAway() && it.Attached && !it.Detached:
		_, used, err := m.anyUsed(ctx, it.Op, it.ENI, m.allBlocks(it))
		if used {
			err = m.callOff(ctx, it)
		}
		return it, err == nil && !used, err
	}
	return it, true, nil
}

// callOffBlocks takes the blocks in use out of an unassign intent. An earlier
// process may have taken them off already, so they are in doubt until the next
// Discover.
func (m *Manager) callOffBlocks(ctx context.Context, it Intent) (Intent, bool, error) {
	var rest, used []netip.Prefix
	for _, b := range it.Blocks {
		_, yes, err := m.anyUsed(ctx, it.Op, it.ENI, []netip.Prefix{b})
		if err != nil {
			return it, false, err
		}
		if yes {
			used = append(used, b)
		} else {
			rest = append(rest, b)
		}
	}
	if len(used) == 0 {
		return it, true, nil
	}
	m.alter(it.ENI, func(e *ENI) {
		for _, b := range used {
			e.drop(b)
			e.Doubtful = append(e.Doubtful, b)
		}
	})
	it.Blocks = rest
	if len(rest) == 0 {
		return it, false, m.forget(ctx, it.ID)
	}
	return it, true, m.put(ctx, it)
}

// callOff drops an intent to take an ENI away. Nothing has happened to the ENI.
func (m *Manager) callOff(ctx context.Context, it Intent) error {
	m.alter(it.ENI, func(e *ENI) { e.InFlight = false })
	return m.forget(ctx, it.ID)
}
