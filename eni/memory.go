// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Memory is an Intents in memory. It is for tests, and for commands that clean up
// before they end. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	intents map[string]Intent
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{intents: map[string]Intent{}}
}

// Put stores an intent.
func (m *Memory) Put(_ context.Context, in Intent) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.intents[in.ID] = in
	return nil
}

// Remove deletes an intent.
func (m *Memory) Remove(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.intents, id)
	return nil
}

// All returns all intents.
func (m *Memory) All(context.Context) ([]Intent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.intents)), nil
}
