// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile is an open file whose bytes can be locked. Closing it releases them.
// A descriptor without os.File does not start the runtime's poller.
type lockFile int

// openLock opens the file at path, and makes it and its directory if need be.
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

// try locks one byte, or returns errBusy. The lock belongs to the open file
// description, so goroutines exclude each other as processes do.
//
// https://man7.org/linux/man-pages/man2/F_GETLK.2const.html, open file description locks
func (f lockFile) try(offset int64) error {
	for {
		err := unix.FcntlFlock(uintptr(f), unix.F_OFD_SETLK, &unix.Flock_t{
			Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: offset, Len: 1,
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return errBusy
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("lock", err)
		}
	}
}

// Close releases the lock.
func (f lockFile) Close() error { return unix.Close(int(f)) }
