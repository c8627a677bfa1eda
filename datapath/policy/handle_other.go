// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package policy

func open(string) (system, error) { return nil, ErrNotSupported }
