// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// Write brings files to what they shall be below root, and returns the paths of
// those that it changed. Each file is replaced in one step, so that whoever reads
// it meanwhile sees the old one or the new one; a file that is right stays as it
// is. Directories are made as needed. Symbolic links that lead out of root are
// an error. An error leaves the files before it written; repeat the call.
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

// replace writes a file beside name and gives it that name.
func replace(dir *os.Root, name, text string) error {
	if err := dir.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// A leading dot and another end: none of the programs reads it.
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
	// The umask of an agent may keep others from reading; networkd is one of them.
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
