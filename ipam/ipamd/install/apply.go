// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// do carries out a step.
func (c config) do(s step) (err error) {
	switch s := s.(type) {
	case removeFile:
		if err = os.Remove(c.at(s.Path)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	case writeRecord:
		var b []byte
		if b, err = json.MarshalIndent(s.Record, "", "  "); err == nil {
			err = replace(c.at(s.Path), bytes.NewReader(append(b, '\n')), 0o600, 0o700)
		}
	case copyFile:
		// The directory of the state is not for other users.
		if err = os.MkdirAll(c.at(c.StateDir), 0o700); err != nil {
			break
		}
		err = c.copy(c.at(s.From), c.at(s.To), 0)
	case installFile:
		err = c.copy(s.Source, c.at(s.To), 0o755)
	case writeText:
		err = replace(c.at(s.Path), bytes.NewReader([]byte(s.Text)), 0o644, 0o755)
	case setSysctl:
		err = os.WriteFile(c.at(sysctlPath(s.Key)), []byte(s.Value+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", s, err, advice(err))
	}
	return nil
}

// advice says what to do about an error of a file system.
func advice(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "; mount it writable, or set the directory or the setting yourself"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "; make room and repeat the command, which continues where it ended"
	case errors.Is(err, fs.ErrPermission):
		return "; run the command as root of the node"
	}
	return ""
}

// copy copies a file in one step. Mode 0 means that of the file.
func (c config) copy(from, to string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if mode == 0 {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	}
	return replace(to, f, mode, 0o755)
}

// replace writes a file in one step: a process that executes the old file keeps it, and no
// process sees half of the new one. It creates directories with the mode dirs. Its errors
// name path and not the temporary file.
func replace(path string, content io.Reader, mode, dirs fs.FileMode) (err error) {
	defer func() {
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			err = &fs.PathError{Op: "write", Path: path, Err: errno}
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirs); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, temporary+"*")
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			_ = f.Close() // it may be closed already
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	done = true
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync() // makes the rename durable
}
