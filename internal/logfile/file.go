// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

const (
	// maxSize is the size in bytes at which a file is rotated.
	maxSize = 50 << 20
	// keep is how many older files there are, the latest with the suffix .1.
	keep = 5
)

// File is a log that is rotated at 50 MB. Several processes may append to it, and another
// program, such as logrotate, may rename it at any time. It is safe for concurrent use.
type File struct {
	path string
	max  int64

	mu sync.Mutex
	f  *os.File
}

// Open opens a log for appending. It creates the file and its directory if they do not
// exist. The file must be a regular one or a device such as /dev/null: a FIFO blocks if no
// process reads it.
func Open(path string) (*File, error) {
	l := &File{path: path, max: maxSize}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice|fs.ModeCharDevice:
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return l, l.reopen()
}

func (l *File) reopen() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f = f
	return nil
}

// Write appends b, which should be whole lines, in one system call. If the file cannot be
// rotated or opened again, it continues with the one that is open.
func (l *File) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch info, same := l.present(); {
	case !same:
		_ = l.reopen()
	case info.Mode().IsRegular() && info.Size() > 0 && info.Size()+int64(len(b)) > l.max:
		_ = l.rotate()
	}
	return l.f.Write(b)
}

// present returns the file at the path, and whether it is the open one.
func (l *File) present() (fs.FileInfo, bool) {
	at, err := os.Stat(l.path)
	if err != nil {
		return nil, false
	}
	opened, err := l.f.Stat()
	return at, err == nil && os.SameFile(at, opened)
}

// rotate renames the files, unless another process has done so meanwhile. Processes that
// still have the renamed file append to it. The lock is that of the file that is renamed:
// the next file exists only when all are renamed.
func (l *File) rotate() error {
	unlock, err := lock(l.f)
	if err != nil {
		return err
	}
	defer unlock() // reopen may have closed the file, which unlocks it too
	if _, same := l.present(); !same {
		return l.reopen()
	}
	for i := keep; i > 1; i-- {
		if err := os.Rename(l.older(i-1), l.older(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(l.path, l.older(1)); err != nil {
		return err
	}
	return l.reopen()
}

func (l *File) older(i int) string { return l.path + "." + strconv.Itoa(i) }

// Close closes the file.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
