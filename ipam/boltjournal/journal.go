// SPDX-License-Identifier: Apache-2.0

package boltjournal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/ipam"
)

// The buckets and their keys.
const (
	bucketEvents = "ipam-events"
	bucketMeta   = "ipam-meta"
	keyFormat    = "format"
	format       = "1"
)

// ErrFormat is returned for a file whose format this version does not know.
var ErrFormat = errors.New("journal has another format")

// Journal is an ipam.Journal in a bbolt file.
type Journal struct {
	db *bbolt.DB
}

var _ ipam.Journal = (*Journal)(nil)

// New keeps a journal in buckets of its own of a file that the caller opened
// and will close.
func New(db *bbolt.DB) (*Journal, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists([]byte(bucketEvents)); err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(bucketMeta))
		if err != nil {
			return err
		}
		switch have := string(meta.Get([]byte(keyFormat))); have {
		case format:
			return nil
		case "":
			return meta.Put([]byte(keyFormat), []byte(format))
		default:
			return fmt.Errorf("format %q instead of %q: %w", have, format, ErrFormat)
		}
	})
	if err != nil {
		return nil, err
	}
	return &Journal{db: db}, nil
}

// Load returns all events in their order.
func (j *Journal) Load() ([]ipam.Event, error) {
	var out []ipam.Event
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketEvents)).ForEach(func(k, v []byte) error {
			e, err := ipam.DecodeEvent(v)
			if err != nil {
				return fmt.Errorf("key %x: %w", k, err)
			}
			out = append(out, e)
			return nil
		})
	})
	return out, err
}

// Append adds events in one transaction, which is on disk when it returns.
func (j *Journal) Append(events []ipam.Event) error {
	return j.db.Update(func(tx *bbolt.Tx) error {
		return put(tx.Bucket([]byte(bucketEvents)), events)
	})
}

// Replace puts events in the place of all others in one transaction.
func (j *Journal) Replace(events []ipam.Event) error {
	return j.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte(bucketEvents)); err != nil {
			return err
		}
		b, err := tx.CreateBucket([]byte(bucketEvents))
		if err != nil {
			return err
		}
		return put(b, events)
	})
}

// put appends to the bucket. Keys only grow, so pages can be filled to the end.
func put(b *bbolt.Bucket, events []ipam.Event) error {
	b.FillPercent = 1
	for _, e := range events {
		v, err := ipam.EncodeEvent(e)
		if err != nil {
			return err
		}
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, n), v); err != nil {
			return err
		}
	}
	return nil
}
