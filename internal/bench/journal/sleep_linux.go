// SPDX-License-Identifier: Apache-2.0

package main

import (
	"syscall"
	"time"
)

// sleep blocks the thread, as fdatasync does. A timer of the runtime would be late
// by up to a millisecond.
func sleep(d time.Duration) {
	if d > 0 {
		left := syscall.NsecToTimespec(int64(d))
		for syscall.Nanosleep(&left, &left) == syscall.EINTR {
			continue
		}
	}
}
