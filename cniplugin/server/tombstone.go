// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

const (
	// badSuffix is appended to the name of a tombstone that cannot be read, so
	// that an operator can inspect it and later collections skip it.
	badSuffix = ".bad"
	// staleTemp is the age from which on a temporary file belongs to a writer
	// that was killed.
	staleTemp = time.Hour
)

// CollectTombstones calls release for each tombstone in dir, oldest first, and
// removes those for which release returned nil. It returns their number. A
// directory that does not exist counts as empty. CollectTombstones joins the
// errors of release; their tombstones stay for the next collection.
//
// An agent collects tombstones when it starts; again once it listens, because
// until then a plugin may have found it away; and periodically after that. A
// tombstone stays for the next collection while a plugin process is working on
// its attachment: an ADD removes the tombstone before it asks for addresses, and
// release must not take back the addresses of that ADD.
func CollectTombstones(ctx context.Context, dir string, release func(context.Context, cniplugin.Tombstone) error) (int, error) {
	if release == nil {
		return 0, errors.New("collect tombstones: release is nil")
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	stones, errs := readTombstones(dir)
	n := 0
	for _, t := range stones {
		if ctx.Err() != nil {
			return n, errors.Join(append(errs, ctx.Err())...)
		}
		switch collected, err := collectTombstone(ctx, dir, t, release); {
		case err != nil:
			errs = append(errs, err)
		case collected:
			n++
		}
	}
	return n, errors.Join(errs...)
}

// collectTombstone releases the attachment of t and removes t. It does nothing if
// a plugin process is working on the attachment or has removed t since it was
// read.
func collectTombstone(ctx context.Context, dir string, t cniplugin.Tombstone, release func(context.Context, cniplugin.Tombstone) error) (bool, error) {
	key := t.Attachment.String()
	lock, err := statedir.TryAcquire(dir, key)
	if err != nil {
		if errors.Is(err, statedir.ErrBusy) {
			err = nil
		}
		return false, err
	}
	defer lock.Release()
	if _, err := os.Stat(statedir.RecordPath(dir, key)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := release(ctx, t); err != nil {
		return false, fmt.Errorf("release %s: %w", t.Attachment, err)
	}
	return true, statedir.RemoveRecord(dir, key)
}

// readTombstones returns the tombstones in dir, oldest first. It renames files
// that it cannot read, and removes stale temporary files.
func readTombstones(dir string) (stones []cniplugin.Tombstone, errs []error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, []error{err}
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), statedir.TempPrefix) && time.Since(info.ModTime()) > staleTemp {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
		if !strings.HasSuffix(e.Name(), statedir.RecordSuffix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() { // to read a FIFO would block
			errs = append(errs, fmt.Errorf("%s is not a tombstone: it is not a regular file", path))
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var t cniplugin.Tombstone
		if err := json.Unmarshal(b, &t); err != nil || statedir.RecordPath(dir, t.Attachment.String()) != path {
			errs = append(errs, fmt.Errorf("%s is not a tombstone; renamed to %s%s", path, path, badSuffix), os.Rename(path, path+badSuffix))
			continue
		}
		stones = append(stones, t)
	}
	slices.SortFunc(stones, func(a, b cniplugin.Tombstone) int { return a.At.Compare(b.At) })
	return stones, errs
}
