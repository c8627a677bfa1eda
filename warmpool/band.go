// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// Band is the default policy: a dead band of free addresses, filled in batches.
// The zero value is ready to use.
type Band struct {
	// Low is the number of free addresses below which the pool grows, High the
	// number above which it shrinks. Zero means a default.
	Low, High int
	// Batch is the number of addresses that growth is aligned to. Zero means
	// what suits the card.
	Batch int
	// HoldDown is how long a surplus must last before any of it is released.
	HoldDown time.Duration
	// Warmup is the number of addresses that a node starts with.
	Warmup int
}

// Decide implements Policy.
func (p Band) Decide(s Snapshot) Decision { return Decision{Memory: s.Memory} }
