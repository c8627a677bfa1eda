// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// diskOf describes the disk of a directory.
func diskOf(dir string) disk {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return disk{Error: err.Error()}
	}
	size := uint64(s.Bsize)
	return disk{Free: s.Bavail * size, Total: s.Blocks * size, FreeFiles: s.Ffree, Files: s.Files, ReadOnly: s.Flags&unix.ST_RDONLY != 0}
}

// lockHeld reports whether other programs hold the lock of iptables for as long as patience.
// It releases the lock at once if it gets it. See iptables(8), XTABLES_LOCKFILE.
func lockHeld(ctx context.Context, file string, patience time.Duration) bool {
	f, err := os.Open(file)
	if err != nil {
		return false // no program has used it, or this one may not
	}
	defer f.Close()
	for end := time.Now().Add(patience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return false
		}
		if time.Now().After(end) {
			return err == unix.EWOULDBLOCK
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(patience / 20):
		}
	}
}
