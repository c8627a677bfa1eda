// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"time"
)

func diskOf(string) disk { return disk{Error: "not supported on this system"} }

func lockHeld(context.Context, string, time.Duration) bool { return false }
