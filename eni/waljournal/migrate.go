// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"encoding/json"
	"fmt"

	"github.com/vpcnet/vpcnet/internal/agentdb"
)

// migration imports the intents of version 1. Intents stay valid after a reboot.
type migration struct {
	db *agentdb.DB

	migrated bool
	setAside string // the new name of a damaged file
	damage   error
}

// first returns the intents of version 1 as the first entries of a new journal.
func (m *migration) first() ([][]byte, error) {
	old := m.db.Intents
	m.damage = old.Err
	intents := map[string]json.RawMessage{}
	for i, value := range old.Items {
		in, err := decodeIntent(value)
		if err != nil {
			m.damage = fmt.Errorf("agent.db: %w: intent %d: %w", ErrDamaged, i, err)
			break
		}
		intents[in.ID] = value
	}
	if m.damage == nil {
		m.migrated = len(intents) > 0
		return encode(intents)
	}
	var err error
	m.setAside, err = m.db.SetAside()
	return nil, err
}

// addTo adds the result of first to a report, if it was called.
func (m *migration) addTo(r *Report) {
	r.Migrated = m.migrated
	if m.migrated || m.damage != nil {
		r.Created = false
	}
	if m.damage != nil {
		r.Why, r.SetAside = m.damage, []string{m.setAside}
	}
}
