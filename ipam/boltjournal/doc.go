// SPDX-License-Identifier: Apache-2.0

// Package boltjournal keeps the journal of an ipam.Pool in a bbolt file
// (go.etcd.io/bbolt): one bucket, one key for each event, one transaction for
// each batch, each of them on disk before the pool answers.
//
// The file can hold other buckets as well. A program that keeps more than the
// pool's journal opens the file itself and calls New.
//
// Values are JSON, so that a person can read the journal with the bbolt
// command: `bbolt keys agent.db ipam-events`.
package boltjournal
