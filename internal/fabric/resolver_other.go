// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package fabric

// ServeDNS returns [ErrNotSupported].
func (f *Fabric) ServeDNS(region string) (*Resolver, error) { return nil, ErrNotSupported }
