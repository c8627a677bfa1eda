// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package wal

import (
	"errors"
	"os"
)

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }
