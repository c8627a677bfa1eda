// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/internal/agentdb"
	"github.com/vpcnet/vpcnet/ipam"
)

// migration takes the events over from version 1.
type migration struct {
	db     *agentdb.DB
	booted time.Time

	migrated, rebooted bool
	aside              string
	why                error
}

// first returns the events of version 1 for a journal that has none yet. Those
// written before the machine booted are of pods that are gone.
func (m *migration) first() ([][]byte, error) {
	old := m.db.Pool
	switch {
	case len(old.Items) == 0 && old.Err == nil:
		return nil, nil
	case m.db.Changed.Before(m.booted):
		m.rebooted = true
		return nil, nil
	}
	if m.why = old.Err; m.why == nil {
		m.why = replay(old.Items)
	}
	if m.why == nil {
		m.migrated = true
		return old.Items, nil
	}
	var err error
	m.aside, err = m.db.SetAside()
	return nil, err
}

// replay finds events that cannot have happened. Version 1 kept no checksums:
// an address that is wrong by a bit shows only where it contradicts others.
func replay(items [][]byte) error {
	events, err := decode(items)
	if err == nil {
		_, err = ipam.Open(ipam.Config{Journal: list(events)})
	}
	if err != nil {
		return fmt.Errorf("agent.db: %w: %w", ErrDamaged, err)
	}
	return nil
}

// list is a journal that can only be read.
type list []ipam.Event

func (l list) Load() ([]ipam.Event, error) { return l, nil }
func (l list) Append([]ipam.Event) error   { return nil }
func (l list) Replace([]ipam.Event) error  { return nil }

// tell adds to a report what first found, if it was asked.
func (m *migration) tell(r *Report) {
	if m.migrated || m.rebooted || m.why != nil {
		r.Created = false
	}
	r.Migrated, r.Rebooted = m.migrated, r.Rebooted || m.rebooted
	if m.why != nil {
		r.Why, r.SetAside = m.why, []string{m.aside}
	}
}
