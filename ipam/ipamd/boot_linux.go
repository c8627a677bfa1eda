// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootID identifies the boot of the machine.
//
// https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html, random/boot_id
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identify the boot: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// bootTime returns the time of the boot, by the monotonic clock.
func bootTime() (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, fmt.Errorf("time since the boot: %w", err)
	}
	return time.Now().Add(-time.Duration(up.Nano())), nil
}
