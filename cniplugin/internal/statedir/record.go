// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// RecordSuffix ends the names of record files.
	RecordSuffix = ".json"
	// TempPrefix begins the names of files that are being written. A writer that
	// is killed leaves one behind.
	TempPrefix = ".tmp-"
)

// RecordPath returns the path of the record of key in dir. The file name is a
// digest, because container IDs may be longer than a file name.
func RecordPath(dir, key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+RecordSuffix)
}

// RemoveRecord removes the record of key from dir. It succeeds if there is none.
func RemoveRecord(dir, key string) error {
	if err := os.Remove(RecordPath(dir, key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// WriteFile replaces the content of the file at path with b in one step: a
// process that opens path reads either the old content or the new, even after a
// crash of the machine.
func WriteFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return ofPath(path, err)
	}
	done := false
	defer func() {
		if !done {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b); err != nil {
		return ofPath(path, err)
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return ofPath(path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return ofPath(path, err)
	}
	done = true
	return syncDir(filepath.Dir(path))
}

// ofPath returns err, which names a temporary file, with the path of the file that was
// to be written.
func ofPath(path string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return &fs.PathError{Op: "write", Path: path, Err: errno}
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
