// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"slices"
	"sync"

	"github.com/vpcnet/vpcnet/ipam/agent"
)

// The kinds of events that this package adds to those of package agent.
const (
	// EventJournalLost: a damaged journal was set aside.
	EventJournalLost agent.EventKind = "journal-lost"
	// EventVPCChanged: the VPC has other prefixes than before.
	EventVPCChanged agent.EventKind = "vpc-prefixes-changed"
)

// maxEvents is the number of events that the status shows.
const maxEvents = 200

// events stores the latest events, oldest first. The zero value is ready to use. It
// is safe for concurrent use.
type events struct {
	mu   sync.Mutex
	last []agent.Event
}

func (e *events) add(ev agent.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = append(e.last, ev)
	if over := len(e.last) - maxEvents; over > 0 {
		e.last = slices.Delete(e.last, 0, over)
	}
}

func (e *events) list() []agent.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.last)
}
