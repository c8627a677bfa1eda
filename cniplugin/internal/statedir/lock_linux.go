// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile is the descriptor of an open file, in which single bytes can be locked. It
// is not an os.File, because opening one starts the poller of the Go runtime.
type lockFile int

// openLock opens the file at path. It creates the file and its directory if they
// do not exist.
func openLock(path string) (lockFile, error) {
	open := func() (int, error) {
		return unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	fd, err := open()
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return -1, err
		}
		fd, err = open()
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return lockFile(fd), nil
}

// try locks one byte, or returns ErrBusy. The lock belongs to the open file
// description, so it also excludes other goroutines of the same process.
//
// https://man7.org/linux/man-pages/man2/F_GETLK.2const.html, open file description locks
func (f lockFile) try(offset int64) error {
	for {
		err := unix.FcntlFlock(uintptr(f), unix.F_OFD_SETLK, &unix.Flock_t{
			Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: offset, Len: 1,
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return ErrBusy
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("lock", err)
		}
	}
}

// Close releases all locks taken through f.
func (f lockFile) Close() error { return unix.Close(int(f)) }
