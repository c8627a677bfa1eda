// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"fmt"
	"time"
)

// recordOwned makes the journal name the ENIs that this node manages by the latest
// answer of EC2. With it the next process knows them while EC2 does not answer, also
// without Config.Known.
func (m *Manager) recordOwned(ctx context.Context) error {
	m.mu.Lock()
	if m.inv.EC2At.IsZero() {
		m.mu.Unlock()
		return nil // only EC2 shows the tags
	}
	owned, now := map[string]bool{}, time.Now()
	for _, e := range m.inv.ENIs {
		owned[e.ID] = e.Managed
	}
	var old []string
	for id, in := range m.intents {
		if in.Op != OpOwned {
			continue
		}
		if !owned[in.ENI] {
			old = append(old, id)
		}
		delete(owned, in.ENI)
	}
	m.mu.Unlock()
	for _, id := range old {
		if err := m.removeIntent(ctx, id); err != nil {
			return fmt.Errorf("record the ENIs of this node: %w", err)
		}
	}
	for id, managed := range owned {
		if !managed {
			continue
		}
		it := Intent{ID: string(OpOwned) + "-" + id, Op: OpOwned, ENI: id, Start: now, Changed: now, Done: true}
		if err := m.putIntent(ctx, it); err != nil {
			return err
		}
	}
	return nil
}

// ownsAny reports whether the journal names an ENI of this node.
func (m *Manager) ownsAny() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range m.intents {
		if in.Op == OpOwned {
			return true
		}
	}
	return false
}
