// SPDX-License-Identifier: Apache-2.0

//go:build unix

package logfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock waits for the lock of a file. Processes hold it for the time of some renames.
func lock(f *os.File) (unlock func(), err error) {
	fd := int(f.Fd())
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			return func() { _ = unix.Flock(fd, unix.LOCK_UN) }, err
		}
	}
}
