// SPDX-License-Identifier: Apache-2.0

package filejournal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vpcnet/vpcnet/eni"
)

// Journal is an eni.Intents in a file. A node has few intents at a time, so the
// file is written whole, beside the old one, and renamed over it. It is safe for
// concurrent use, but not by two processes.
type Journal struct {
	path string

	mu      sync.Mutex
	intents map[string]eni.Intent
}

// file is the content of the file.
type file struct {
	Version int
	Intents []eni.Intent
}

// version is the version of the file's format.
const version = 1

// Open reads the journal at path, which need not exist; its directory must.
func Open(path string) (*Journal, error) {
	j := &Journal{path: path, intents: map[string]eni.Intent{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open intent journal: %w", err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("open intent journal %s: %w", path, err)
	}
	if f.Version != version {
		return nil, fmt.Errorf("open intent journal %s: version %d, want %d", path, f.Version, version)
	}
	for _, in := range f.Intents {
		j.intents[in.ID] = in
	}
	return j, nil
}

// Put stores an intent.
func (j *Journal) Put(_ context.Context, in eni.Intent) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := maps.Clone(j.intents)
	next[in.ID] = in
	return j.save(next)
}

// Remove forgets an intent.
func (j *Journal) Remove(_ context.Context, id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.intents[id]; !ok {
		return nil
	}
	next := maps.Clone(j.intents)
	delete(next, id)
	return j.save(next)
}

// All returns all intents, sorted by ID.
func (j *Journal) All(context.Context) ([]eni.Intent, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return sorted(j.intents), nil
}

func sorted(intents map[string]eni.Intent) []eni.Intent {
	out := make([]eni.Intent, 0, len(intents))
	for _, id := range slices.Sorted(maps.Keys(intents)) {
		out = append(out, intents[id])
	}
	return out
}

// save makes the intents durable and then the journal's content.
func (j *Journal) save(next map[string]eni.Intent) error {
	data, err := json.MarshalIndent(file{Version: version, Intents: sorted(next)}, "", " ")
	if err != nil {
		return fmt.Errorf("save intent journal: %w", err)
	}
	if err := replace(j.path, data); err != nil {
		return fmt.Errorf("save intent journal: %w", err)
	}
	j.intents = next
	return nil
}

// replace writes a file so that after a crash either the old content or the new
// one is there.
func replace(path string, data []byte) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
