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

// Config describes the log to open.
type Config struct {
	// Name is the name of the log in its directory.
	Name string
	// BootID binds the log to one boot of the machine: a log of another boot is
	// discarded. Empty means that the log survives reboots.
	BootID string
	// BootTime is when the machine booted. If the files are too damaged to show
	// their boot, and were last written before BootTime, they are of another boot.
	// Zero means unknown.
	BootTime time.Time
	// Sync makes each call wait for the disk.
	Sync bool
	// Wait is how long Open waits for another process to close the log.
	Wait time.Duration
	// First returns the first items of a log that did not exist. It is not called
	// for a log that replaces a damaged or discarded one. Nil means no items.
	First func() ([][]byte, error)
}

// Report is what Open found. The zero value means an intact log.
type Report struct {
	// Created: the log did not exist.
	Created bool
	// Rebooted: the log was of another boot, and was discarded.
	Rebooted bool
	// SetAside are the new names of damaged files. The log is then empty. Why is
	// the damage, and Readable the number of items before it.
	SetAside []string
	Why      error
	Readable int
}

// Open opens the log, or creates it in an existing directory. If the log is
// damaged, Open sets it aside and creates an empty one.
//
// Errors are ErrInUse when cfg.Wait or ctx ends, ErrFormat if a newer version
// wrote the log, and those of the file system. With ErrFormat the files are
// unchanged.
func Open(ctx context.Context, dir string, cfg Config) (*Log, Report, error) {
	boot := cfg.BootID
	if boot == "" {
		boot = "-"
	}
	if strings.ContainsFunc(boot, func(r rune) bool { return r <= ' ' || r > '~' }) || len(boot) > 64 {
		return nil, Report{}, fmt.Errorf("open journal: boot ID is %q, want at most 64 bytes of printable ASCII without spaces", boot)
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

// file is one of the two files, as Open found it.
type file struct {
	missing bool
	modTime time.Time
	// stamp is the header; bad is the error if it cannot be read.
	stamp stamp
	bad   error
	// content is set for a log.
	content content
}

// ofBoot reports whether the header of the file has the given boot.
func (f *file) ofBoot(boot string) bool { return !f.missing && f.bad == nil && f.stamp.boot == boot }

// inspect reads both files. Damage is recorded in their bad fields, not returned
// as an error.
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

// openFile opens a regular file. If the file is not regular or cannot be read, it
// sets found.bad; other failures are returned.
func openFile(path string, found *file) (*os.File, int64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		found.missing = true
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	found.modTime = info.ModTime()
	if !info.Mode().IsRegular() {
		found.bad = fmt.Errorf("%s has type %v, want a regular file", path, info.Mode().Type())
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

// verdict is the state of a log, as judged from its two files.
type verdict int

const (
	intact verdict = iota
	absent
	rebooted
	damaged
	newer
)

// judge decides the state of a log from both files. The log is intact only if the
// head agrees with it. It is of another boot only if neither file is of this one.
func (l *Log) judge(log, head file, booted time.Time) (verdict, error) {
	switch {
	case errors.Is(log.bad, errNewer):
		return newer, log.bad
	case errors.Is(head.bad, errNewer):
		return newer, head.bad
	case log.missing && head.missing:
		return absent, nil
	case head.ofBoot(l.boot) && head.stamp.at == point{} && log.missing:
		return absent, nil // a process was killed while it created the log
	case head.ofBoot(l.boot) && head.stamp.at == point{} && log.bad == nil && !log.ofBoot(l.boot):
		return rebooted, nil // a process was killed while it replaced the log of another boot
	case log.ofBoot(l.boot) && head.ofBoot(l.boot):
		if err := log.content.agree(head.stamp.at); err != nil {
			return damaged, err
		}
		return intact, nil
	}
	why := errors.Join(l.headerError(l.logPath(), log), l.headerError(l.headPath(), head))
	if l.boot == "-" || log.ofBoot(l.boot) || head.ofBoot(l.boot) {
		return damaged, why
	}
	readable := !log.missing && log.bad == nil || !head.missing && head.bad == nil
	if readable || log.modTime.Before(booted) && head.modTime.Before(booted) {
		return rebooted, nil
	}
	return damaged, why
}

// headerError returns what is wrong with the header of one file.
func (l *Log) headerError(path string, f file) error {
	name := filepath.Base(path)
	switch {
	case f.missing:
		return fmt.Errorf("%s is missing", name)
	case f.bad != nil:
		return fmt.Errorf("%s: %w", name, f.bad)
	case f.stamp.boot != l.boot:
		return fmt.Errorf("%s has boot ID %s, want %s", name, f.stamp.boot, l.boot)
	}
	return nil
}

// resume continues an intact log. It cuts off an append that did not return.
func (l *Log) resume(log file) error {
	l.last, l.size, l.opened = log.content.last, log.content.size, log.content.items
	l.longTail, l.staleHead = true, true
	return l.repair()
}

// create creates both files. It writes the head first, with the zero point: if
// the process is killed before the log is written, the next Open starts again.
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

// Discard sets the files aside, as Open does with damaged ones, and continues
// with an empty log. It returns the new names of the files. It is for a caller
// that finds that the items of an intact log are wrong.
func (l *Log) Discard() ([]string, error) {
	names, err := SetAside(l.logPath(), l.headPath())
	if err != nil {
		return nil, err
	}
	return names, l.create(nil)
}
