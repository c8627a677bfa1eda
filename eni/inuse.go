// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// anyUsed asks Config.InUse about blocks of an ENI and returns the first one in
// use. An error means that the answer is not known.
func (m *Manager) anyUsed(ctx context.Context, op Op, id string, blocks []netip.Prefix) (netip.Prefix, bool, error) {
	for _, b := range blocks {
		used, err := m.cfg.InUse(ctx, id, b)
		if err != nil {
			return b, false, &OpError{Op: string(op), ENI: id, reason: ReasonInUse, Err: fmt.Errorf("is %s in use: %w", b, err)}
		}
		if used {
			return b, true, nil
		}
	}
	return netip.Prefix{}, false, nil
}

// checkFree returns nil if all blocks of an ENI are known to be free, and else an
// *OpError with ReasonInUse.
func (m *Manager) checkFree(ctx context.Context, op Op, id string, blocks []netip.Prefix) error {
	b, used, err := m.anyUsed(ctx, op, id, blocks)
	if used {
		return &OpError{Op: string(op), ENI: id, reason: ReasonInUse, Err: fmt.Errorf("%s is in use", b)}
	}
	return err
}

// ifFree returns the condition that the blocks of an ENI are free.
func (m *Manager) ifFree(op Op, id string, blocks []netip.Prefix) condition {
	return func(ctx context.Context) error { return m.checkFree(ctx, op, id, blocks) }
}

// ifUnused returns the condition that no block of an intent's ENI is in use.
func (m *Manager) ifUnused(it Intent) condition {
	return func(ctx context.Context) error { return m.checkFree(ctx, it.Op, it.ENI, m.allBlocks(it)) }
}

// allBlocks lists every known block of an intent's ENI: those that EC2 showed,
// those of the inventory, and those that the ENI was created with. They include
// the own addresses of a branch ENI, because its pod has those.
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

// cancelUsed cancels the parts of an unfinished intent that would take something
// away from a pod. It makes no call to EC2, so that an intent of an old journal
// does no harm even while EC2 does not answer. It returns the remaining intent, and
// false if nothing remains.
func (m *Manager) cancelUsed(ctx context.Context, it Intent) (Intent, bool, error) {
	switch {
	case it.Op == OpUnassign:
		return m.cancelUsedBlocks(ctx, it)
	case it.Op == OpRetireBranch, it.removes() && it.Attached && !it.Detached:
		_, used, err := m.anyUsed(ctx, it.Op, it.ENI, m.allBlocks(it))
		if used {
			err = m.cancelIntent(ctx, it)
		}
		return it, err == nil && !used, err
	}
	return it, true, nil
}

// cancelUsedBlocks removes the blocks in use from an unassign intent. An earlier
// process may have unassigned them, so they are in doubt until the next Discover.
func (m *Manager) cancelUsedBlocks(ctx context.Context, it Intent) (Intent, bool, error) {
	var remaining, used []netip.Prefix
	for _, b := range it.Blocks {
		_, inUse, err := m.anyUsed(ctx, it.Op, it.ENI, []netip.Prefix{b})
		if err != nil {
			return it, false, err
		}
		if inUse {
			used = append(used, b)
		} else {
			remaining = append(remaining, b)
		}
	}
	if len(used) == 0 {
		return it, true, nil
	}
	m.changeENI(it.ENI, func(e *ENI) {
		for _, b := range used {
			e.removeBlock(b)
			e.Doubtful = append(e.Doubtful, b)
		}
	})
	it.Blocks = remaining
	if len(remaining) == 0 {
		return it, false, m.removeIntent(ctx, it.ID)
	}
	return it, true, m.putIntent(ctx, it)
}

// cancelIntent drops an intent to remove an ENI. The ENI itself is unchanged.
func (m *Manager) cancelIntent(ctx context.Context, it Intent) error {
	m.changeENI(it.ENI, func(e *ENI) { e.InFlight = false })
	return m.removeIntent(ctx, it.ID)
}
