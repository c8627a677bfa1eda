// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package datapath

// openSystem returns [ErrNotSupported].
func openSystem(string) (system, error) { return nil, ErrNotSupported }

// SandboxID returns [ErrNotSupported].
func SandboxID(string) (uint64, error) { return 0, ErrNotSupported }

// effects are what a mode does in the kernel; there is nothing to do it in.
type effects any
