// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// unknownFor is how long safe defaults are used before EC2 is asked again.
const unknownFor = 10 * time.Minute

// Limits returns the limits of the instance: from the built-in table, from EC2 for
// types that the table lacks, or safe defaults if EC2 does not answer within
// ClientConfig.Timeout. It fails only if the instance cannot be identified. For a
// type of the table it makes no call once an inventory is known, also if that is
// Config.Known.
//
// Safe defaults can exceed the real limits. If EC2 refuses prefixes, Limits reports no
// prefix delegation from then on. If EC2 refuses an ENI with that many slots,
// Provision creates one with fewer; the limits stay as they are, and Assign tries how
// many slots the ENI takes. What refusals have shown is kept in the journal.
func (m *Manager) Limits(ctx context.Context) (instancetype.Limits, error) {
	m.mu.Lock()
	known := m.inv.Instance.Type != ""
	m.mu.Unlock()
	if !known {
		if err := m.ensureDiscovered(ctx); err != nil {
			return instancetype.Limits{}, err
		}
	}
	m.mu.Lock()
	name := m.inv.Instance.Type
	if m.learned.kind != name {
		m.learned = learnedLimits{kind: name} // it was about another type
	}
	l, at := m.learned.apply(m.limits), m.limitsAt
	m.mu.Unlock()
	if old := guessed(l) && time.Since(at) > unknownFor; l.Source != "" && !old {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.ec2.cfg.Timeout)
	defer cancel()
	l = m.ec2.LimitsOf(ctx, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limits.Source != "" && m.limits.Source != l.Source || !guessed(l) {
		m.learned = learnedLimits{kind: name} // it was about other limits
	}
	m.limits, m.limitsAt = l, time.Now()
	return m.learned.apply(l), nil
}

// LimitsOf returns the limits of an instance type: from the built-in table, from
// EC2, or safe defaults. The Source of the result says which.
func (c *Client) LimitsOf(ctx context.Context, instanceType string) instancetype.Limits {
	if l, ok := instancetype.Lookup(instanceType); ok {
		return l
	}
	l, err := c.describeType(ctx, instanceType)
	if err != nil {
		return instancetype.Safe(instanceType)
	}
	return l
}
