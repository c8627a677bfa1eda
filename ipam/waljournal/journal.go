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
	// ErrDamaged: a file does not have the content that was written to it.
	ErrDamaged = wal.ErrDamaged
	// ErrFormat: a newer version wrote the journal. It is unchanged.
	ErrFormat = wal.ErrFormat
	// ErrInUse: another process has the journal open.
	ErrInUse = wal.ErrInUse
)

// Config configures a journal.
type Config struct {
	// BootID is the boot ID of the machine (/proc/sys/kernel/random/boot_id). A
	// journal of another boot is discarded. Empty means that the journal survives
	// reboots.
	BootID string
	// BootTime is when the machine booted. Files without a readable boot ID, such
	// as a journal of version 1, are of another boot if they were last written
	// before that time. Zero means unknown; such files then count as of this boot.
	BootTime time.Time
	// Wait is how long Open waits for another process to close the journal.
	Wait time.Duration
}

// Report is what Open found. The zero value means an intact journal. If Created,
// Rebooted or Why is set, the journal is empty now.
type Report struct {
	// Created: the journal did not exist.
	Created bool
	// Rebooted: the journal was of another boot, and was discarded.
	Rebooted bool
	// Migrated: the events come from a journal of version 1.
	Migrated bool
	// SetAside are the new names of damaged files.
	SetAside []string
	// Why is the damage; errors.Is matches ErrDamaged. Nil means no damage.
	Why error
	// Readable is the number of events before the damage.
	Readable int
}

// Journal is an ipam.Journal in a file. It is not safe for concurrent use.
type Journal struct {
	log *wal.Log
	old *agentdb.DB
	// opened has the events that Open read, for the first Load. It is nil after
	// that, and after any change.
	opened []ipam.Event
}

var _ ipam.Journal = (*Journal)(nil)

// Open opens the journal in an existing directory, or creates it. It reads the
// journal of version 1 (agent.db) once. If the journal is damaged, Open sets it
// aside and creates an empty one; the Report describes the damage.
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
		Name: agentdb.Pool, BootID: cfg.BootID, BootTime: cfg.BootTime, Wait: cfg.Wait, First: m.firstItems,
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
	m.addTo(&r)
	return j, r, nil
}

// check reads the journal. If it has events that this version does not know,
// check returns ErrFormat.
func (j *Journal) check() (err error) {
	j.opened, err = j.Load()
	if errors.Is(err, ipam.ErrInvalid) {
		return fmt.Errorf("%w: start the version that wrote it, or drain the node and remove the state directory: %w", ErrFormat, err)
	}
	return err
}

// Load returns all events in order. ErrDamaged means that the file was changed
// since Open, and ipam.ErrInvalid that a newer version wrote an event.
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

// Append adds all events or none. When it returns, the events survive the end of
// the process. It does not wait for the disk.
func (j *Journal) Append(events []ipam.Event) error {
	items, err := encode(events)
	if err != nil {
		return err
	}
	j.opened = nil
	return j.log.Append(items)
}

// Replace replaces all events by the given ones, in one step.
func (j *Journal) Replace(events []ipam.Event) error {
	items, err := encode(events)
	if err != nil {
		return err
	}
	j.opened = nil
	return j.log.Replace(items)
}

// Discard sets the files aside and continues with an empty journal. It returns
// the new names of the files. It is for events that contradict each other, which
// ipam.Open reports as ipam.ErrJournal.
func (j *Journal) Discard() ([]string, error) {
	j.opened = nil
	return j.log.Discard()
}

// Close closes the files. It writes nothing.
func (j *Journal) Close() error { return errors.Join(j.log.Close(), j.old.Close()) }
