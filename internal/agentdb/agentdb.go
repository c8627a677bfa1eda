// SPDX-License-Identifier: Apache-2.0

package agentdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/internal/wal"
)

// The names of version 1 for its file, its buckets and its format.
const (
	fileName      = "agent.db"
	bucketEvents  = "ipam-events"
	bucketIntents = "eni-intents"
	bucketMeta    = "ipam-meta"
	keyFormat     = "format"
	format        = "1"
)

// sealed is the format of a sealed file. Version 1 prints it in quotation marks
// and exits.
const sealed = "2 (written by a newer vpcnet: start that version again, or drain the node and remove the state directory)"

// maxFile is how much of the file is read, in bytes. A thousand pods take half a
// megabyte.
const maxFile = 256 << 20

// The names of the journals that replace the two parts of the file.
const (
	Pool    = "pool"
	Intents = "intents"
)

// Part is one of the two journals in the file.
type Part struct {
	// Items are the values, in the order of their keys.
	Items [][]byte
	// Err is why the part cannot be read; errors.Is matches wal.ErrDamaged.
	Err error
}

// DB is the content of agent.db.
type DB struct {
	// Pool and Intents are the parts to migrate.
	Pool, Intents Part
	// ModTime is when the file was last written.
	ModTime time.Time

	dir    string
	file   *os.File
	sealed bool
}

// Open reads agent.db in dir. If the file does not exist or is sealed, both parts
// are empty. If a process of version 1 has the file open for longer than wait, Open
// returns wal.ErrInUse.
func Open(ctx context.Context, dir string, wait time.Duration) (*DB, error) {
	db := &DB{dir: dir}
	info, err := os.Lstat(db.path())
	if errors.Is(err, fs.ErrNotExist) {
		return db, nil
	}
	if err != nil {
		return nil, err
	}
	db.ModTime = info.ModTime()
	if !info.Mode().IsRegular() {
		db.setDamaged(fmt.Errorf("the file has type %v, want a regular file", info.Mode().Type()))
		return db, nil
	}
	if db.file, err = wal.Lock(ctx, db.path(), wait); errors.Is(err, fs.ErrPermission) {
		db.setDamaged(err)
		return db, nil
	} else if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(db.file, maxFile))
	if err != nil {
		db.setDamaged(err)
		return db, nil
	}
	db.read(data)
	return db, nil
}

func (db *DB) path() string { return filepath.Join(db.dir, fileName) }

// setDamaged sets the error of both parts.
func (db *DB) setDamaged(err error) {
	err = fmt.Errorf("%s: %w: %w", fileName, wal.ErrDamaged, err)
	db.Pool, db.Intents = Part{Err: err}, Part{Err: err}
}

// read sets both parts from the content of the file. One of them may be damaged
// while the other one is readable.
func (db *DB) read(data []byte) {
	t, err := openTree(data)
	if err != nil {
		db.setDamaged(err)
		return
	}
	root, err := t.pairs(t.root)
	if err != nil {
		db.setDamaged(err)
		return
	}
	buckets := map[string]pair{}
	for _, p := range root {
		buckets[string(p.key)] = p
	}
	have, err := readFormat(t, buckets)
	if err != nil {
		db.setDamaged(err)
		return
	}
	if db.sealed = have != "" && have != format; db.sealed {
		return
	}
	db.Pool = t.part(buckets, bucketEvents, true)
	db.Intents = t.part(buckets, bucketIntents, false)
}

// readFormat returns the format, or "" if the file has no format yet.
func readFormat(t *tree, buckets map[string]pair) (string, error) {
	b, ok := buckets[bucketMeta]
	if !ok {
		if _, ok := buckets[bucketEvents]; ok {
			return "", fmt.Errorf("bucket %s is missing", bucketMeta)
		}
		return "", nil
	}
	pairs, _, err := t.bucket(b)
	if err != nil {
		return "", err
	}
	for _, p := range pairs {
		if string(p.key) == keyFormat {
			return string(p.value), nil
		}
	}
	return "", fmt.Errorf("bucket %s has no key %s", bucketMeta, keyFormat)
}

// part reads the values of one bucket. If numbered is set, their keys must be
// numbers without a gap, as version 1 writes them for events.
func (t *tree) part(buckets map[string]pair, name string, numbered bool) (p Part) {
	b, ok := buckets[name]
	if !ok {
		if _, ok := buckets[bucketMeta]; ok && numbered {
			p.Err = fmt.Errorf("%s: %w: bucket %s is missing", fileName, wal.ErrDamaged, name)
		}
		return p
	}
	pairs, sequence, err := t.bucket(b)
	for i, e := range pairs {
		if numbered && err == nil && string(e.key) != string(binary.BigEndian.AppendUint64(nil, uint64(i)+1)) {
			err = fmt.Errorf("event %d has key %x, want its number", i+1, e.key)
		}
		p.Items = append(p.Items, e.value)
	}
	if numbered && err == nil && sequence != uint64(len(pairs)) {
		err = fmt.Errorf("%d events, want %d", len(pairs), sequence)
	}
	if err != nil {
		return Part{Err: fmt.Errorf("%s: %w: bucket %s: %w", fileName, wal.ErrDamaged, name, err)}
	}
	return p
}

// SetAside gives the file a second name, agent.db.damaged-N, which it keeps when
// Seal replaces agent.db. The first name remains until then, because the other
// part may still have to be migrated.
func (db *DB) SetAside() (string, error) {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s.damaged-%d", db.path(), n)
		switch err := os.Link(db.path(), name); {
		case err == nil:
			return name, nil
		case errors.Is(err, fs.ErrExist):
			if sameFile(name, db.path()) {
				return name, nil
			}
		case db.file != nil:
			return "", err
		default: // a directory, which cannot have a second name
			return name, os.Rename(db.path(), name)
		}
	}
}

func sameFile(a, b string) bool {
	x, errA := os.Lstat(a)
	y, errB := os.Lstat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// Seal replaces agent.db by a file that version 1 refuses, unless agent.db is
// already sealed or one part is still to be migrated. A process of version 1 that
// waits for the old file keeps waiting until Close.
func (db *DB) Seal() error {
	unmigrated := func(p Part, journal string) bool {
		_, err := os.Lstat(filepath.Join(db.dir, journal+".log"))
		return (p.Err != nil || len(p.Items) > 0) && err != nil
	}
	if db.sealed || unmigrated(db.Pool, Pool) || unmigrated(db.Intents, Intents) {
		return db.Close()
	}
	aside := db.path() + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSealed(aside); err != nil {
		return err
	}
	if db.file == nil {
		// The path may be a directory or another file that is not regular.
		if info, err := os.Lstat(db.path()); err == nil && !info.Mode().IsRegular() {
			if _, err := wal.SetAside(db.path()); err != nil {
				return err
			}
		}
	}
	return os.Rename(aside, db.path())
}

func writeSealed(path string) error {
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket([]byte(bucketMeta))
		if err != nil {
			return err
		}
		return meta.Put([]byte(keyFormat), []byte(sealed))
	})
	return errors.Join(err, b.Close())
}

// Close closes the file. It may be called more than once.
func (db *DB) Close() error {
	if db.file == nil {
		return nil
	}
	f := db.file
	db.file = nil
	return f.Close()
}
