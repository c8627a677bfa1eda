// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package statedir

import (
	"errors"
	"fmt"
)

var errNotSupported = fmt.Errorf("lock of an attachment: %w", errors.ErrUnsupported)

type lockFile struct{}

func openLock(string) (lockFile, error) { return lockFile{}, errNotSupported }

func (lockFile) try(int64) error { return errNotSupported }

func (lockFile) Close() error { return nil }
