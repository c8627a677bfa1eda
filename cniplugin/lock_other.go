// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cniplugin

func lock(string) (unlock func(), err error) { return nil, ErrNotSupported }
