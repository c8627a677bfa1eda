// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/internal/agentdb"
	"github.com/vpcnet/vpcnet/internal/wal"
)

// The errors of Open.
var (
	// ErrDamaged means that the contents of a file are not what was written.
	ErrDamaged = wal.ErrDamaged
	// ErrFormat means that a newer version wrote the journal. Open does not change
	// it.
	ErrFormat = wal.ErrFormat
	// ErrInUse means that another process has the journal open.
	ErrInUse = wal.ErrInUse
)

// compactAfter is the number of entries from which on a file that consists mostly
// of old entries is replaced by one with the present intents.
const compactAfter = 256

// Config configures how Open opens a journal.
type Config struct {
	// Wait is how long Open waits for another process to close the journal.
	Wait time.Duration
}

// Report describes what Open found. The zero value means a complete journal. In
// all other cases except Migrated, the journal is empty.
type Report struct {
	// Created says that there was no journal.
	Created bool
	// Migrated says that the intents come from a journal of version 1.
	Migrated bool
	// SetAside are the new names of damaged files.
	SetAside []string
	// Why describes the damage and wraps ErrDamaged. It is nil if there is none.
	Why error
	// Readable is the number of entries before the damage. An entry stores or
	// removes one intent.
	Readable int
}

// entry is one line of the file.
type entry struct {
	Put    json.RawMessage `json:"put,omitempty"`
	Remove string          `json:"remove,omitempty"`
}

// Journal is an eni.Intents in a file. It is safe for concurrent use.
type Journal struct {
	old *agentdb.DB

	mu      sync.Mutex
	log     *wal.Log
	intents map[string]json.RawMessage
	entries int // in the file
	// opened has the intents as load has decoded them, for the first All. It is nil after
	// that, and after any change.
	opened map[string]eni.Intent
}

var _ eni.Intents = (*Journal)(nil)

// Open opens the journal in an existing directory, or creates it. It reads a
// journal of version 1 (agent.db) once. It sets a damaged journal aside and
// returns an empty one; the Report says so.
//
// Open returns ErrInUse if another process has the journal open until Config.Wait
// or ctx ends, ErrFormat if a newer version wrote the journal, and errors of the
// file system. The caller closes the journal.
func Open(ctx context.Context, dir string, cfg Config) (*Journal, Report, error) {
	old, err := agentdb.Open(ctx, dir, cfg.Wait)
	if err != nil {
		return nil, Report{}, fmt.Errorf("open intent journal: %w", err)
	}
	m := migration{db: old}
	log, found, err := wal.Open(ctx, dir, wal.Config{Name: agentdb.Intents, Sync: true, Wait: cfg.Wait, First: m.first})
	if err != nil {
		return nil, Report{}, errors.Join(err, old.Close())
	}
	j := &Journal{old: old, log: log, intents: map[string]json.RawMessage{}}
	if err := errors.Join(j.load(), old.Seal()); err != nil {
		return nil, Report{}, errors.Join(err, j.Close())
	}
	r := Report{Created: found.Created, SetAside: found.SetAside, Why: found.Why, Readable: found.Readable}
	m.addTo(&r)
	return j, r, nil
}

// load reads the entries of the file. It decodes only the last entry of each intent: most
// entries are earlier steps of the same operations.
func (j *Journal) load() error {
	items, err := j.log.Load()
	if err != nil {
		return err
	}
	j.entries, j.opened = len(items), map[string]eni.Intent{}
	wrong := func(i int, err error) error {
		return fmt.Errorf("%w: start the version that wrote it, or remove the state directory: entry %d: %w", ErrFormat, i, err)
	}
	last := map[string]int{}
	for i, item := range items {
		id, stores, err := idOf(item)
		if err != nil {
			return wrong(i, err)
		}
		if last[id] = i; !stores {
			delete(last, id)
		}
	}
	for id, i := range last {
		var e entry
		err := json.Unmarshal(items[i], &e)
		if err == nil {
			j.intents[id] = e.Put
			j.opened[id], err = decodeIntent(e.Put)
		}
		if err != nil {
			return wrong(i, err)
		}
	}
	return nil
}

// putPrefix begins the lines that Put writes.
const putPrefix = `{"put":{"ID":"`

// idOf returns the ID of the intent of a line of the file, and whether the line stores or
// removes the intent. It reads no more of a line as Put writes it: such a line is decoded
// only if no later one has the same ID.
func idOf(item []byte) (id string, stores bool, err error) {
	if rest, ok := bytes.CutPrefix(item, []byte(putPrefix)); ok {
		if n := bytes.IndexAny(rest, `"\\`); n > 0 && rest[n] == '"' {
			return string(rest[:n]), true, nil
		}
	}
	var e struct {
		Put    *struct{ ID string } `json:"put"`
		Remove string               `json:"remove"`
	}
	err = json.Unmarshal(item, &e)
	switch {
	case err != nil:
	case e.Put == nil && e.Remove == "":
		err = errors.New("entry neither stores nor removes an intent")
	case e.Put == nil:
		return e.Remove, false, nil
	case e.Put.ID == "":
		err = errNoID
	default:
		return e.Put.ID, true, nil
	}
	return "", false, err
}

// errNoID is the error of an intent without an ID.
var errNoID = errors.New("intent has no ID")

// decodeIntent decodes an intent, which must have an ID.
func decodeIntent(value []byte) (in eni.Intent, err error) {
	if err := json.Unmarshal(value, &in); err != nil {
		return eni.Intent{}, err
	}
	if in.ID == "" {
		return eni.Intent{}, errNoID
	}
	return in, nil
}

// Put stores an intent. The intent is on disk when Put returns.
func (j *Journal) Put(_ context.Context, in eni.Intent) error {
	value, err := json.Marshal(in)
	if err == nil && in.ID == "" {
		err = errNoID
	}
	if err == nil {
		err = j.write(in.ID, entry{Put: value})
	}
	if err != nil {
		return fmt.Errorf("store intent %s: %w", in.ID, err)
	}
	return nil
}

// Remove deletes an intent if the journal has it.
func (j *Journal) Remove(_ context.Context, id string) error {
	if err := j.write(id, entry{Remove: id}); err != nil {
		return fmt.Errorf("remove intent %s: %w", id, err)
	}
	return nil
}

// write appends an entry, or replaces all entries by the remaining intents.
func (j *Journal) write(id string, e entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Put == nil && j.intents[id] == nil {
		return nil
	}
	j.opened = nil
	next := maps.Clone(j.intents)
	if next[id] = e.Put; e.Put == nil {
		delete(next, id)
	}
	if j.entries >= compactAfter+2*len(next) {
		items, err := encode(next)
		if err != nil {
			return err
		}
		if err := j.log.Replace(items); err != nil {
			return err
		}
		j.intents, j.entries = next, len(next)
		return nil
	}
	item, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := j.log.Append([][]byte{item}); err != nil {
		return err
	}
	j.intents, j.entries = next, j.entries+1
	return nil
}

// encode returns the shortest list of entries that results in the intents.
func encode(intents map[string]json.RawMessage) (out [][]byte, err error) {
	for _, id := range slices.Sorted(maps.Keys(intents)) {
		item, err := json.Marshal(entry{Put: intents[id]})
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, nil
}

// All returns all intents, sorted by ID.
func (j *Journal) All(context.Context) ([]eni.Intent, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []eni.Intent
	for _, id := range slices.Sorted(maps.Keys(j.intents)) {
		in, decoded := j.opened[id]
		if !decoded {
			var err error
			if in, err = decodeIntent(j.intents[id]); err != nil {
				return nil, fmt.Errorf("read intent %s: %w", id, err)
			}
		}
		out = append(out, in)
	}
	j.opened = nil
	return out, nil
}

// Close closes the files without writing to them.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.log.Close(), j.old.Close())
}
