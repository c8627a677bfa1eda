// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/url"
	"slices"
	"time"
)

// Call is an entry of the audit log: one request to the EC2 API.
type Call struct {
	At time.Time
	// Caller is the instance whose role signed the request, or the access key
	// ID; empty for an unsigned one.
	Caller string
	Action string
	// Parameters are those of the request without its signature.
	Parameters url.Values
	// Code is the error code of the answer; empty for success, Abandoned if the
	// client gave up before the call was done.
	Code      string
	RequestID string
}

// Abandoned is the Code of calls that were not done because the client gave up.
const Abandoned = "abandoned"

// Calls counts the calls by action since the start or the last ResetCalls,
// those that failed included.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// ResetCalls sets all counts to zero and empties the audit log.
func (c *Cloud) ResetCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.calls)
	c.audit = nil
}

// Audit returns the log of all calls, the oldest first.
func (c *Cloud) Audit() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.audit)
}

// record counts a call and adds it to the audit log.
func (c *Cloud) record(call Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call.Action]++
	c.audit = append(c.audit, call)
}
