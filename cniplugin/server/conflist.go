// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// ErrConflistEdited means that a network configuration list was written by an operator or
// by another program, so that an agent must neither overwrite nor remove it.
var ErrConflistEdited = errors.New("the network configuration list was written by an operator or another program")

// WriteConflist writes a network configuration list to path in one step, so that
// a runtime that watches the directory never reads half of it, and reports
// whether the file changed. An agent calls it when it can serve the first pod: a
// runtime reports the node as ready once the file exists. WriteConflist creates missing
// directories.
//
// The file conflist.json in stateDir records what was written. If the list has another
// content than was recorded, WriteConflist leaves it as it is and returns an error that
// wraps [ErrConflistEdited]. If an earlier call wrote the list to another path, it is
// removed there, unless it was edited. A damaged record counts as none. With an empty stateDir there is no record, and
// WriteConflist overwrites each list.
func WriteConflist(path, stateDir string, c cniplugin.Conflist) (changed bool, err error) {
	b, err := c.JSON()
	if err != nil {
		return false, err
	}
	if path == "" {
		return false, errors.New("write the conflist: the path is empty, want one such as /etc/cni/net.d/10-vpcnet.conflist")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	present, exists, err := readConflist(path)
	if err != nil {
		return false, err
	}
	if stateDir == "" {
		if exists && present == digest(b) {
			return false, nil
		}
		return true, statedir.WriteFile(path, b, 0o644)
	}
	r, err := readConflistRecord(stateDir)
	if err != nil && !errors.Is(err, errDamagedRecord) {
		return false, err
	}
	next := conflistRecord{Path: path, Digests: []string{digest(b)}}
	switch {
	case !exists, present == digest(b):
	case r.wrote(path, present):
		next.Digests = append(next.Digests, present) // for the case that the process ends before the list is written
	default:
		return false, fmt.Errorf("%s: %w", path, ErrConflistEdited)
	}
	if err := next.write(stateDir, r); err != nil {
		return false, err
	}
	if !exists || present != digest(b) {
		changed = true
		if err := statedir.WriteFile(path, b, 0o644); err != nil {
			return false, err
		}
	}
	if r.Path != "" && r.Path != path {
		if err := r.remove(); err != nil && !errors.Is(err, ErrConflistEdited) {
			return changed, err
		}
	}
	return changed, nil
}

// RemoveConflist removes the list that [WriteConflist] has recorded in stateDir, and
// returns its path, which is empty if there is none. A list that was edited stays, and the
// error wraps [ErrConflistEdited]. Otherwise the runtime reports the node as not ready from
// then on. root is a directory in front of the recorded path, such as a node's root as a
// container has it mounted. Empty means /.
func RemoveConflist(root, stateDir string) (path string, err error) {
	r, err := readConflistRecord(stateDir)
	if err != nil || r.Path == "" {
		return "", err
	}
	r.Path = filepath.Join("/", root, r.Path)
	if err := r.remove(); err != nil {
		return r.Path, err
	}
	return r.Path, removeFile(filepath.Join(stateDir, conflistRecordName))
}

// conflistRecord says which lists are those of WriteConflist.
type conflistRecord struct {
	Path string `json:"path"`
	// Digests are the SHA-256 digests of the lists that were written to Path.
	Digests []string `json:"digests"`
}

const conflistRecordName = "conflist.json"

// errDamagedRecord means that the record cannot be decoded.
var errDamagedRecord = errors.New("the record of the network configuration list is damaged")

// readConflistRecord reads the record, which is empty if there is none.
func readConflistRecord(stateDir string) (r conflistRecord, err error) {
	path := filepath.Join(stateDir, conflistRecordName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return conflistRecord{}, fmt.Errorf("%s: %w: %w", path, errDamagedRecord, err)
	}
	return r, nil
}

// write writes the record, unless before is the same.
func (r conflistRecord) write(stateDir string, before conflistRecord) error {
	if r.Path == before.Path && slices.Equal(r.Digests, before.Digests) {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	return statedir.WriteFile(filepath.Join(stateDir, conflistRecordName), append(b, '\n'), 0o600)
}

func (r conflistRecord) wrote(path, digest string) bool {
	return r.Path == path && slices.Contains(r.Digests, digest)
}

// remove removes the list, if it has the content that was recorded.
func (r conflistRecord) remove() error {
	present, exists, err := readConflist(r.Path)
	switch {
	case err != nil || !exists:
		return err
	case !r.wrote(r.Path, present):
		return fmt.Errorf("%s: %w", r.Path, ErrConflistEdited)
	}
	return removeFile(r.Path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readConflist returns the digest of the file at path, and whether it exists.
func readConflist(path string) (present string, exists bool, err error) {
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return "", false, nil
	case err != nil:
		return "", false, err
	case !info.Mode().IsRegular(): // to read a FIFO would block
		return "", false, fmt.Errorf("write %s: it is not a regular file", path)
	}
	b, err := os.ReadFile(path)
	return digest(b), err == nil, err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
