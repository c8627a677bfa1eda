// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cniplugin

func checkSandbox(string) error { return ErrNotSupported }
