// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cniplugin

type lockFile struct{}

func openLock(string) (lockFile, error) { return lockFile{}, ErrNotSupported }

func (lockFile) try(int64) error { return ErrNotSupported }

func (lockFile) Close() error { return nil }
