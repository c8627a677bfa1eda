// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/internal/agentdb"
	"github.com/vpcnet/vpcnet/ipam"
)

// migration migrates the events of version 1, and records the result.
type migration struct {
	db     *agentdb.DB
	booted time.Time

	migrated, rebooted bool
	setAside           string
	why                error
}

// firstItems returns the events of version 1, for a journal that did not exist.
// Events from before the boot of the machine are discarded, because their pods
// have ended.
func (m *migration) firstItems() ([][]byte, error) {
	old := m.db.Pool
	switch {
	case len(old.Items) == 0 && old.Err == nil:
		return nil, nil
	case m.db.ModTime.Before(m.booted):
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
	m.setAside, err = m.db.SetAside()
	return nil, err
}

// replay returns ErrDamaged if the events contradict each other. Version 1 had no
// checksums, so a wrong bit in an address is noticed only if the address then
// contradicts another event.
func replay(items [][]byte) error {
	events, err := decode(items)
	if err == nil {
		_, err = ipam.Open(ipam.Config{Journal: readOnly(events)})
	}
	if err != nil {
		return fmt.Errorf("agent.db: %w: %w", ErrDamaged, err)
	}
	return nil
}

// readOnly is a journal of fixed events, which ignores writes.
type readOnly []ipam.Event

func (l readOnly) Load() ([]ipam.Event, error) { return l, nil }
func (l readOnly) Append([]ipam.Event) error   { return nil }
func (l readOnly) Replace([]ipam.Event) error  { return nil }

// addTo adds the result of firstItems to a report. If firstItems was not called,
// the report does not change.
func (m *migration) addTo(r *Report) {
	if m.migrated || m.rebooted || m.why != nil {
		r.Created = false
	}
	r.Migrated, r.Rebooted = m.migrated, r.Rebooted || m.rebooted
	if m.why != nil {
		r.Why, r.SetAside = m.why, []string{m.setAside}
	}
}
