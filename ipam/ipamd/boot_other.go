// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ipamd

import (
	"errors"
	"time"
)

func bootID() (string, error) { return "", errors.ErrUnsupported }

func bootTime() (time.Time, error) { return time.Time{}, errors.ErrUnsupported }
