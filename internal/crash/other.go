// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"math/rand/v2"
)

func stepClock(*rand.Rand) (string, error) { return "", errors.ErrUnsupported }

func (w *world) flushRuleset() error { return errors.ErrUnsupported }
