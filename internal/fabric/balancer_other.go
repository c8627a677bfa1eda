// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package fabric

import "net/netip"

// Balancer is a network load balancer, which only Linux has: AddBalancer returns
// [ErrNotSupported].
type Balancer struct{}

// AddBalancer returns [ErrNotSupported].
func (f *Fabric) AddBalancer(BalancerInput) (*Balancer, error) { return nil, ErrNotSupported }

// Healthy returns nil.
func (b *Balancer) Healthy(network string, port uint16) []netip.AddrPort { return nil }

// Err returns nil.
func (b *Balancer) Err() error { return nil }

// Close does nothing.
func (b *Balancer) Close() error { return nil }
