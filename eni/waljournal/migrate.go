// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"encoding/json"
	"fmt"

	"github.com/vpcnet/vpcnet/internal/agentdb"
)

// migration takes the intents over from version 1. They outlive a boot.
type migration struct {
	db *agentdb.DB

	migrated bool
	aside    string
	why      error
}

// first returns the intents of version 1 for a journal that has none yet.
func (m *migration) first() ([][]byte, error) {
	old := m.db.Intents
	m.why = old.Err
	intents := map[string]json.RawMessage{}
	for i, value := range old.Items {
		in, err := decodeIntent(value)
		if err != nil {
			m.why = fmt.Errorf("agent.db: %w: intent %d: %w", ErrDamaged, i, err)
			break
		}
		intents[in.ID] = value
	}
	if m.why == nil {
		m.migrated = len(intents) > 0
		return encode(intents)
	}
	var err error
	m.aside, err = m.db.SetAside()
	return nil, err
}

// tell adds to a report what first found, if it was asked.
func (m *migration) tell(r *Report) {
	r.Migrated = m.migrated
	if m.migrated || m.why != nil {
		r.Created = false
	}
	if m.why != nil {
		r.Why, r.SetAside = m.why, []string{m.aside}
	}
}
