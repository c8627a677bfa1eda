// SPDX-License-Identifier: Apache-2.0

package boltjournal

import (
	"context"
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/eni"
)

const bucketIntents = "eni-intents"

// Journal is an eni.Intents in a bbolt file. It is safe for concurrent use.
type Journal struct {
	db *bbolt.DB
}

var _ eni.Intents = (*Journal)(nil)

// New keeps intents in a bucket of its own of a file that the caller opened
// and will close.
func New(db *bbolt.DB) (*Journal, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(bucketIntents))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open intent journal: %w", err)
	}
	return &Journal{db: db}, nil
}

// Put stores an intent. It is on disk when Put returns.
func (j *Journal) Put(_ context.Context, in eni.Intent) error {
	value, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("store intent %s: %w", in.ID, err)
	}
	err = j.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketIntents)).Put([]byte(in.ID), value)
	})
	if err != nil {
		return fmt.Errorf("store intent %s: %w", in.ID, err)
	}
	return nil
}

// Remove forgets an intent, if it is there.
func (j *Journal) Remove(_ context.Context, id string) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketIntents)).Delete([]byte(id))
	})
	if err != nil {
		return fmt.Errorf("remove intent %s: %w", id, err)
	}
	return nil
}

// All returns all intents, sorted by ID.
func (j *Journal) All(context.Context) ([]eni.Intent, error) {
	var out []eni.Intent
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketIntents)).ForEach(func(id, value []byte) error {
			var in eni.Intent
			if err := json.Unmarshal(value, &in); err != nil {
				return fmt.Errorf("read intent %s: %w", id, err)
			}
			out = append(out, in)
			return nil
		})
	})
	return out, err
}
