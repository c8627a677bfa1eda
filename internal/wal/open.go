// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Config says which log to open, and how.
type Config struct {
	// Name is the name of the log in its directory.
	Name string
	// BootID binds the log to one boot of the machine: a log of another boot is
	// discarded. Empty means that the log outlives boots.
	BootID string
	// BootTime is when the machine booted. It tells which boot files belong to
	// that are too damaged to tell. Zero means unknown.
	BootTime time.Time
	// Sync makes each call wait for the disk.
	Sync bool
	// Wait is how long Open waits for another process to close the log.
	Wait time.Duration
	// First returns the items of a log that Open creates because there was none.
	// Nil means none.
	First func() ([][]byte, error)
}

// Report says what Open found.
type Report struct {
	// Created: there was no log.
	Created bool
	// Rebooted: there was one of another boot. It was discarded.
	Rebooted bool
	// SetAside are the new names of damaged files. The log is then empty. Why
	// says what the damage is, and Readable how many items there are before it.
	SetAside []string
	Why      error
	Readable int
}

// Open opens the log, or creates it in an existing directory. A log that is
// damaged is set aside, and an empty one created in its place.
//
// Errors are ErrInUse when the wait ends, the error of ctx, ErrFormat if a
// newer version wrote the log, and those of the file system. With ErrFormat
// nothing is changed.
func Open(ctx context.Context, dir string, cfg Config) (*Log, Report, error) {
	boot := cfg.BootID
	if boot == "" {
		boot = "-"
	}
	if strings.ContainsFunc(boot, func(r rune) bool { return r <= ' ' || r > '~' }) || len(boot) > 64 {
		return nil, Report{}, fmt.Errorf("open journal: boot ID %q is not a word of at most 64 bytes", boot)
	}
	l := &Log{path: filepath.Join(dir, cfg.Name), name: cfg.Name, boot: boot, sync: cfg.Sync}
	report, err := l.open(ctx, cfg)
	if err != nil {
		return nil, Report{}, errors.Join(fmt.Errorf("open journal %s: %w", l.logPath(), err), l.Close())
	}
	return l, report, nil
}

func (l *Log) open(ctx context.Context, cfg Config) (r Report, err error) {
	if l.lock, err = Lock(ctx, l.path+".lock", cfg.Wait); err != nil {
		return Report{}, err
	}
	log, head, err := l.inspect()
	if err != nil {
		return Report{}, err
	}
	verdict, why := l.judge(log, head, cfg.BootTime)
	switch verdict {
	case newer:
		return Report{}, fmt.Errorf("%w: %w: start that version again, or drain the node and remove %s.*", ErrFormat, why, l.path)
	case intact:
		return Report{}, l.resume(log)
	case absent:
		r.Created = true
	case rebooted:
		r.Rebooted = true
	case damaged:
		r.Why, r.Readable = fmt.Errorf("%w: %w", ErrDamaged, why), len(log.content.items)
		if r.SetAside, err = SetAside(l.logPath(), l.headPath()); err != nil {
			return Report{}, err
		}
	}
	var items [][]byte
	if verdict == absent && cfg.First != nil {
		if items, err = cfg.First(); err != nil {
			return Report{}, err
		}
	}
	return r, l.create(items)
}

// file is what is found in the place of one of the two files.
type file struct {
	missing bool
	changed time.Time
	// stamp is the header; bad says why there is none.
	stamp stamp
	bad   error
	// content is set for a log.
	content content
}

// of reports whether the file says to be of this boot.
func (f *file) of(boot string) bool { return !f.missing && f.bad == nil && f.stamp.boot == boot }

// inspect reads both files. Whatever is wrong with them is no error.
func (l *Log) inspect() (log, head file, err error) {
	f, size, err := openFile(l.logPath(), &log)
	if err != nil {
		return log, head, err
	}
	if f != nil {
		if log.content, log.bad = scan(f, size, l.name); log.bad == nil {
			log.stamp = log.content.stamp
		}
		l.log = f
	}
	if f, size, err = openFile(l.headPath(), &head); err != nil {
		return log, head, err
	}
	if f != nil {
		line := make([]byte, min(size, maxStamp))
		if _, head.bad = io.ReadFull(f, line); head.bad == nil {
			head.stamp, _, head.bad = decodeStamp(magicHead, l.name, line)
		}
		l.head = f
	}
	return log, head, nil
}

// openFile opens a regular file. What is no regular file, or may not be read, is
// bad; other trouble is an error.
func openFile(path string, found *file) (*os.File, int64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		found.missing = true
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	found.changed = info.ModTime()
	if !info.Mode().IsRegular() {
		found.bad = fmt.Errorf("%s is not a regular file: %v", path, info.Mode().Type())
		return nil, 0, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EIO):
		found.bad = err
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// verdict is what the two files amount to.
type verdict int

const (
	intact verdict = iota
	absent
	rebooted
	damaged
	newer
)

// judge decides from both files. It trusts a log only if the head agrees, and
// calls a log one of another boot only if neither file is of this one.
func (l *Log) judge(log, head file, booted time.Time) (verdict, error) {
	switch {
	case errors.Is(log.bad, errNewer):
		return newer, log.bad
	case errors.Is(head.bad, errNewer):
		return newer, head.bad
	case log.missing && head.missing:
		return absent, nil
	case head.of(l.boot) && head.stamp.at == point{} && log.missing:
		return absent, nil // a process was killed while it created the log
	case head.of(l.boot) && head.stamp.at == point{} && log.bad == nil && !log.of(l.boot):
		return rebooted, nil // likewise
	case log.of(l.boot) && head.of(l.boot):
		if err := log.content.agree(head.stamp.at); err != nil {
			return damaged, err
		}
		return intact, nil
	}
	why := errors.Join(l.complaint(l.logPath(), log), l.complaint(l.headPath(), head))
	if l.boot == "-" || log.of(l.boot) || head.of(l.boot) {
		return damaged, why
	}
	readable := !log.missing && log.bad == nil || !head.missing && head.bad == nil
	if readable || log.changed.Before(booted) && head.changed.Before(booted) {
		return rebooted, nil
	}
	return damaged, why
}

// complaint says what is wrong with one file by itself.
func (l *Log) complaint(path string, f file) error {
	name := filepath.Base(path)
	switch {
	case f.missing:
		return fmt.Errorf("%s is missing", name)
	case f.bad != nil:
		return fmt.Errorf("%s: %w", name, f.bad)
	case f.stamp.boot != l.boot:
		return fmt.Errorf("%s is of boot %s, want %s", name, f.stamp.boot, l.boot)
	}
	return nil
}

// resume goes on with an intact log, and cuts off an append that was never
// answered.
func (l *Log) resume(log file) error {
	l.last, l.size = log.content.last, log.content.size
	l.longTail, l.staleHead = true, true
	return l.settle()
}

// create makes both files anew. It begins with a head that says so: if the
// process is killed in between, the next Open does the same again.
func (l *Log) create(items [][]byte) (err error) {
	for _, f := range []*os.File{l.log, l.head} {
		if f != nil {
			_ = f.Close()
		}
	}
	l.log, l.head, l.last = nil, nil, point{}
	l.longTail, l.staleHead = false, false
	if l.head, err = l.install(l.headPath(), l.stamp(magicHead, point{}).encode()); err != nil {
		return err
	}
	return l.Replace(items)
}

// Discard sets the files aside, as Open does with damaged ones, and goes on
// with an empty log. The caller found that what the log holds is wrong. The new
// names are returned.
func (l *Log) Discard() ([]string, error) {
	names, err := SetAside(l.logPath(), l.headPath())
	if err != nil {
		return nil, err
	}
	return names, l.create(nil)
}
