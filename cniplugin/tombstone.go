// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	tombstoneSuffix = ".json"
	// A tombstone that cannot be read gets this suffix in addition, so that it
	// is looked at by a person and not again by every collection.
	badSuffix = ".bad"
	// tempPrefix begins the names of files that are being written. A writer that
	// is killed leaves one; after staleTemp nobody writes it any more.
	tempPrefix = ".tmp-"
	staleTemp  = time.Hour
)

// TombstoneDir returns the directory of tombstones in a state directory.
func TombstoneDir(stateDir string) string { return filepath.Join(stateDir, "tombstones") }

// tombstonePath names the file of an attachment. Container IDs have no length
// limit, so the name is a digest.
func tombstonePath(dir string, a Attachment) string {
	sum := sha256.Sum256([]byte(a.String()))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+tombstoneSuffix)
}

// WriteTombstone records in dir, which it makes if need be, that an attachment
// is gone. When it returns nil the record survives a crash of the machine.
// Writing the same attachment again replaces the record.
func WriteTombstone(dir string, t Tombstone) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return writeFile(tombstonePath(dir, t.Attachment), append(b, '\n'), 0o600)
}

// CollectTombstones calls release for each tombstone in dir, oldest first, and
// removes those for which it returned nil; it returns their number. A directory
// that does not exist is empty. Errors of release are joined and leave their
// tombstones for the next time.
//
// An agent calls it when it starts, again once it listens, because a plugin may
// have found it away until then, and now and then after that. A tombstone whose
// attachment a plugin process is working on stays for the next time: an ADD
// removes it before it asks for addresses, and release must not take back what
// that ADD is given.
func CollectTombstones(ctx context.Context, dir string, release func(context.Context, Tombstone) error) (int, error) {
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

// collectTombstone releases and removes one, unless a plugin process is working
// on its attachment or has removed it since it was read.
func collectTombstone(ctx context.Context, dir string, t Tombstone, release func(context.Context, Tombstone) error) (bool, error) {
	lock, err := tryLockAttachment(dir, t.Attachment)
	if err != nil {
		if errors.Is(err, errBusy) {
			err = nil
		}
		return false, err
	}
	defer lock.unlock()
	if _, err := os.Stat(tombstonePath(dir, t.Attachment)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := release(ctx, t); err != nil {
		return false, fmt.Errorf("release %s: %w", t.Attachment, err)
	}
	return true, removeTombstone(dir, t.Attachment)
}

// readTombstones returns the tombstones in dir, oldest first, and puts aside
// what it cannot read.
func readTombstones(dir string) (stones []Tombstone, errs []error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, []error{err}
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), tempPrefix) && time.Since(info.ModTime()) > staleTemp {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
		if !strings.HasSuffix(e.Name(), tombstoneSuffix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var t Tombstone
		if err := json.Unmarshal(b, &t); err != nil || tombstonePath(dir, t.Attachment) != path {
			errs = append(errs, fmt.Errorf("%s is no tombstone; kept as %s%s", path, path, badSuffix), os.Rename(path, path+badSuffix))
			continue
		}
		stones = append(stones, t)
	}
	slices.SortFunc(stones, func(a, b Tombstone) int { return a.At.Compare(b.At) })
	return stones, errs
}

// removeTombstone makes sure that no collection will release a on the word of
// an earlier DEL. The caller has the lock of a: a collection that has begun
// would release it after all.
func removeTombstone(dir string, a Attachment) error {
	if err := os.Remove(tombstonePath(dir, a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeFile puts b at path in one step: whoever opens path reads the old
// content or the new, also after a crash.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	done = true
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
