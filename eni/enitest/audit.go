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
	// Caller is the ID of the instance if its role signed the request, else the
	// access key ID. It is empty for an unsigned request.
	Caller string
	Action string
	// Parameters are the parameters of the request without its signature.
	Parameters url.Values
	// Code is the error code of the answer. It is empty for success, and "abandoned"
	// if the client gave up before the call was done.
	Code      string
	RequestID string
}

// abandoned is the Code of calls that were not done because the client gave up.
const abandoned = "abandoned"

// Calls returns the number of calls of each action since the start or the last
// ResetCalls, failed calls included.
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

// Audit returns the log of the calls since the start or the last ResetCalls, the
// oldest first. It holds the last Config.AuditSize calls.
func (c *Cloud) Audit() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.audit[max(0, len(c.audit)-c.cfg.AuditSize):])
}

// record counts a call and adds it to the audit log.
func (c *Cloud) record(call Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call.Action]++
	if len(c.audit) >= 2*c.cfg.AuditSize {
		c.audit = slices.Clone(c.audit[len(c.audit)-c.cfg.AuditSize:])
	}
	c.audit = append(c.audit, call)
}
