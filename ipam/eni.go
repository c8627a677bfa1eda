// SPDX-License-Identifier: Apache-2.0

package ipam

import "time"

// ENI is an ENI as the pool stores it.
type ENI struct {
	ID           string
	Card, Device int
}

// eni is an ENI with its state and blocks.
type eni struct {
	ENI
	since    time.Time
	ready    bool
	draining bool
	blocks   []*block // by address
}
