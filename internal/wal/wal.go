// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The errors of this package.
var (
	// ErrDamaged: a file does not have the content that was written to it.
	ErrDamaged = errors.New("journal is damaged")
	// ErrFormat: a newer version wrote the file. It is unchanged.
	ErrFormat = errors.New("journal has the format of a newer version")
	// ErrInUse: another process has the log open.
	ErrInUse = errors.New("journal is in use by another process")
)

// Log is an open log. It is not safe for concurrent use.
type Log struct {
	path string // without suffix
	name string
	boot string
	sync bool

	lock, log, head *os.File

	// last is the point after the last completed append, and size the number of bytes
	// up to there.
	last point
	size int64
	// longTail: the log may have bytes after size. staleHead: the head may differ
	// from last. A failed operation sets them, and the next one repairs the files.
	longTail, staleHead bool

	buf []byte
	// opened has the items that Open read, for the first Load. It is nil after that, and
	// after any change.
	opened [][]byte
}

func (l *Log) logPath() string  { return l.path + ".log" }
func (l *Log) headPath() string { return l.path + ".head" }

// Load returns all items, in order: the first time those that Open read, and after that
// those of the file. It returns ErrDamaged if the file has changed since it was written.
func (l *Log) Load() ([][]byte, error) {
	if items := l.opened; items != nil {
		l.opened = nil
		return items, nil
	}
	c, err := scan(io.NewSectionReader(l.log, 0, l.size), l.size, l.name)
	if err == nil && c.last != l.last {
		err = fmt.Errorf("the log ends after record %d, want record %d", c.last.seq, l.last.seq)
		err = errors.Join(err, c.stop)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", l.logPath(), ErrDamaged, err)
	}
	return c.items, nil
}

// Append adds all items or none, as one record. An item must not contain a
// newline. If Append returns an error, for example because the disk is full, a
// later Load returns none of the items.
func (l *Log) Append(items [][]byte) (err error) {
	if err := l.repair(); err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	l.opened = nil
	buf, next, err := encodeRecord(l.buf[:0], l.last, items)
	if err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	l.buf = buf
	written := false
	defer func() {
		if !written {
			err = fmt.Errorf("append to journal: %w", errors.Join(err, l.repair()))
		}
	}()
	l.longTail = true
	if err := l.write(l.log, buf, l.size); err != nil {
		return err
	}
	l.staleHead = true
	if err := l.write(l.head, l.stamp(magicHead, next).encode(), 0); err != nil {
		return err
	}
	l.last, l.size = next, l.size+int64(len(buf))
	l.longTail, l.staleHead = false, false
	written = true
	return nil
}

// Replace replaces all items by the given ones, in one step: if the process is
// killed meanwhile, the next one finds the old items or the new ones. If Replace
// returns an error, the old items remain.
func (l *Log) Replace(items [][]byte) error {
	if err := l.repair(); err != nil {
		return fmt.Errorf("replace journal: %w", err)
	}
	l.opened = nil
	start := l.stamp(magicLog, l.last).encode()
	buf, next, err := encodeRecord(bytes.Clone(start), l.last, items)
	if err != nil {
		return fmt.Errorf("replace journal: %w", err)
	}
	f, err := l.install(l.logPath(), buf)
	if err != nil {
		return fmt.Errorf("replace journal: %w", err)
	}
	if l.log != nil {
		_ = l.log.Close() // the old log is not needed any more
	}
	l.log, l.last, l.size = f, next, int64(len(buf))
	// The new log is in place, and its header agrees with the old head. If the
	// head cannot be written, the next operation tries again.
	l.staleHead = true
	_ = l.repair()
	return nil
}

// repair completes or undoes the writes of a failed operation. It writes the head
// before it truncates the log, because a head that is one record behind is valid
// and a head that is ahead is damage.
func (l *Log) repair() error {
	if l.staleHead {
		want := l.stamp(magicHead, l.last).encode()
		if err := l.write(l.head, want, 0); err != nil {
			have := make([]byte, len(want))
			if _, again := l.head.ReadAt(have, 0); again != nil || !bytes.Equal(have, want) {
				return err
			} // the file already has the wanted head
		}
		l.staleHead = false
	}
	if l.longTail {
		if err := l.log.Truncate(l.size); err != nil {
			return err
		}
		l.longTail = false
	}
	return nil
}

func (l *Log) stamp(magic string, at point) stamp {
	return stamp{magic: magic, name: l.name, boot: l.boot, at: at}
}

func (l *Log) write(f *os.File, data []byte, at int64) error {
	if _, err := f.WriteAt(data, at); err != nil {
		return err
	}
	if !l.sync {
		return nil
	}
	return f.Sync()
}

// install writes a new file and renames it to path. The file stays open.
func (l *Log) install(path string, data []byte) (f *os.File, err error) {
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if f, err = os.OpenFile(aside, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	installed := false
	defer func() {
		if !installed {
			_ = f.Close()
			_ = os.Remove(aside)
		}
	}()
	if err := l.write(f, data, 0); err != nil {
		return nil, err
	}
	if err := os.Rename(aside, path); err != nil {
		return nil, err
	}
	installed = true
	if !l.sync {
		return f, nil
	}
	return f, syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the files and lets another process open the log. Nothing is
// written.
func (l *Log) Close() error {
	var all error
	for _, f := range []*os.File{l.log, l.head, l.lock} {
		if f != nil {
			all = errors.Join(all, f.Close())
		}
	}
	return all
}
