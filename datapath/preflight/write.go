// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// Write writes the files below the directory root, and returns the paths of those
// that it changed. It creates directories as needed. It replaces each file
// atomically, so that a reader sees the old or the new file, and leaves files with
// the right text unchanged. Symbolic links that lead out of root are an error. After
// an error the files before it are written; the call can be repeated.
func Write(root string, files []File) (changed []string, err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for _, f := range files {
		name := filepath.FromSlash(f.Path)
		have, err := dir.ReadFile(name)
		if err == nil && string(have) == f.Text {
			continue
		}
		if err := replace(dir, name, f.Text); err != nil {
			return changed, fmt.Errorf("write %s: %w", f.Path, err)
		}
		changed = append(changed, f.Path)
	}
	return changed, nil
}

// replace writes a temporary file beside name and renames it to name.
func replace(dir *os.Root, name, text string) error {
	if err := dir.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// No program reads a file with a leading dot and the suffix .new.
	temporary := filepath.Join(filepath.Dir(name), "."+path.Base(filepath.ToSlash(name))+".new")
	f, err := dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			_ = dir.Remove(temporary)
		}
	}()
	_, err = f.WriteString(text)
	// The umask of the agent may forbid other users, such as that of networkd, to
	// read the file.
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := dir.Rename(temporary, name); err != nil {
		return err
	}
	done = true
	return nil
}
