// SPDX-License-Identifier: Apache-2.0

package waljournal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/internal/agentdb"
	"github.com/vpcnet/vpcnet/internal/wal"
	"github.com/vpcnet/vpcnet/ipam"
)

// The errors of Open and Load.
var (
	// ErrDamaged: a file is not what was written to it.
	ErrDamaged = wal.ErrDamaged
	// ErrFormat: a newer version wrote the journal. It is left as it is.
	ErrFormat = wal.ErrFormat
	// ErrInUse: another process has the journal open.
	ErrInUse = wal.ErrInUse
)

// Config says how to open a journal.
type Config struct {
	// BootID is the boot ID of the machine (/proc/sys/kernel/random/boot_id). A
	// journal of another boot is discarded. Empty means that the journal outlives
	// boots.
	BootID string
	// BootTime is when the machine booted. It stands in for the boot ID where a
	// file has none: a journal of version 1, or one that is too damaged. Zero
	// means unknown; such files then count as of this boot.
	BootTime time.Time
	// Wait is how long Open waits for another process to close the journal.
	Wait time.Duration
}

// Report says what Open found. The zero value is a journal that was read whole.
// In every other case but Migrated it is empty.
type Report struct {
	// Created: there was no journal.
	Created bool
	// Rebooted: the journal was of another boot, and was discarded.
	Rebooted bool
	// Migrated: the events come from a journal of version 1.
	Migrated bool
	// SetAside are the names that damaged files have now.
	SetAside []string
	// Why says what the damage is; it is ErrDamaged. Nil means no damage.
	Why error
	// Readable is the number of events before the damage.
	Readable int
}

// Journal is an ipam.Journal in a file. It is not safe for concurrent use.
type Journal struct {
	log *wal.Log
	old *agentdb.DB
	// opened is what Open read, for the first Load. Nil once it may be stale.
	opened []ipam.Event
}

var _ ipam.Journal = (*Journal)(nil)

// Open opens the journal in an existing directory, or creates it. The journal
// of version 1 (agent.db) is read once. A damaged journal is set aside and an
// empty one takes its place; Report says so.
//
// Errors are ErrInUse when Config.Wait or ctx ends, ErrFormat if a newer
// version wrote the journal, and those of the file system. The caller closes
// the journal.
func Open(ctx context.Context, dir string, cfg Config) (*Journal, Report, error) {
	old, err := agentdb.Open(ctx, dir, cfg.Wait)
	if err != nil {
		return nil, Report{}, fmt.Errorf("open journal: %w", err)
	}
	m := migration{db: old, booted: cfg.BootTime}
	log, found, err := wal.Open(ctx, dir, wal.Config{
		Name: agentdb.Pool, BootID: cfg.BootID, BootTime: cfg.BootTime, Wait: cfg.Wait, First: m.first,
	})
	if err != nil {
		return nil, Report{}, errors.Join(err, old.Close())
	}
	j := &Journal{log: log, old: old}
	if err := errors.Join(j.check(), old.Seal()); err != nil {
		return nil, Report{}, errors.Join(err, j.Close())
	}
	r := Report{
		Created: found.Created, Rebooted: found.Rebooted, SetAside: found.SetAside, Why: found.Why, Readable: found.Readable,
	}
	m.tell(&r)
	return j, r, nil
}

// check reads the journal and finds events that this version does not know.
func (j *Journal) check() (err error) {
	j.opened, err = j.Load()
	if errors.Is(err, ipam.ErrInvalid) {
		return fmt.Errorf("%w: start the version that wrote it, or drain the node and remove the state directory: %w", ErrFormat, err)
	}
	return err
}

// Load returns all events in their order. ErrDamaged means that the file was
// changed since Open; ipam.ErrInvalid that a newer version wrote an event.
func (j *Journal) Load() ([]ipam.Event, error) {
	if events := j.opened; events != nil {
		j.opened = nil
		return events, nil
	}
	items, err := j.log.Load()
	if err != nil {
		return nil, err
	}
	return decode(items)
}

func decode(items [][]byte) ([]ipam.Event, error) {
	out := make([]ipam.Event, len(items))
	for i, item := range items {
		var err error
		if out[i], err = ipam.DecodeEvent(item); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
	}
	return out, nil
}

func encode(events []ipam.Event) (out [][]byte, err error) {
	out = make([][]byte, len(events))
	for i, e := range events {
		if out[i], err = ipam.EncodeEvent(e); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
	}
	return out, nil
}

// Append adds events, all or none of them. They survive the end of the process
// when it returns; it does not wait for the disk.
func (j *Journal) Append(events []ipam.Event) error {
	items, err := encode(events)
	if err != nil {
		return err
	}
	j.opened = nil
	return j.log.Append(items)
}

// Replace puts events in the place of all others, in one step.
func (j *Journal) Replace(events []ipam.Event) error {
	items, err := encode(events)
	if err != nil {
		return err
	}
	j.opened = nil
	return j.log.Replace(items)
}

// Discard sets the files aside and goes on with an empty journal, for a caller
// whose events contradict each other (ipam.Open returns ipam.ErrJournal). The
// new names of the files are returned.
func (j *Journal) Discard() ([]string, error) {
	j.opened = nil
	return j.log.Discard()
}

// Close closes the files. Nothing is written.
func (j *Journal) Close() error { return errors.Join(j.log.Close(), j.old.Close()) }
