// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package datapath

// effects are what a mode does in the kernel; there is nothing to do it in.
type effects any
