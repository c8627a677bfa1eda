// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package datapath

// openSystem returns [ErrNotSupported].
func openSystem(string) (system, error) { return nil, ErrNotSupported }

// SandboxID returns [ErrNotSupported].
func SandboxID(string) (uint64, error) { return 0, ErrNotSupported }
