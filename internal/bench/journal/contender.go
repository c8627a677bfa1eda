// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

// journal is a journal that can be closed.
type journal interface {
	ipam.Journal
	Close() error
}

// contender is one implementation of a journal.
type contender struct {
	name string
	// syncs is how often an append must call fdatasync.
	syncs int
	// open opens the journal in dir, without syncing. It returns an error if the
	// journal is damaged.
	open func(dir string) (journal, error)
}

func contenders() []contender {
	return []contender{
		// A transaction syncs its pages and then the meta page.
		{name: "bbolt, sync", syncs: 2, open: openBolt},
		{name: "bbolt, no sync", open: openBolt},
		{name: "waljournal", open: openWAL},
	}
}

func openWAL(dir string) (journal, error) {
	j, report, err := waljournal.Open(context.Background(), dir, waljournal.Config{BootID: "boot"})
	if err == nil && report.Why != nil {
		err = errors.Join(report.Why, j.Close())
	}
	if err != nil {
		return nil, err
	}
	return j, nil
}

// bolt is the journal of version 1: a bbolt file with a key for each event.
type bolt struct{ db *bbolt.DB }

var bucketEvents = []byte("ipam-events")

func openBolt(dir string) (journal, error) {
	db, err := bbolt.Open(filepath.Join(dir, "events.db"), 0o600, &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketEvents)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &bolt{db}, nil
}

func (b *bolt) Close() error { return b.db.Close() }

func (b *bolt) Load() (out []ipam.Event, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketEvents).ForEach(func(k, v []byte) error {
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

func (b *bolt) Append(events []ipam.Event) error {
	return b.db.Update(func(tx *bbolt.Tx) error { return put(tx.Bucket(bucketEvents), events) })
}

func (b *bolt) Replace(events []ipam.Event) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(bucketEvents); err != nil {
			return err
		}
		bucket, err := tx.CreateBucket(bucketEvents)
		if err != nil {
			return err
		}
		return put(bucket, events)
	})
}

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
