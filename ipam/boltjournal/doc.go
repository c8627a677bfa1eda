// SPDX-License-Identifier: Apache-2.0

// Package boltjournal keeps the journal of an ipam.Pool in a bbolt file
// (go.etcd.io/bbolt): one bucket, one key for each event, one transaction for
// each batch, each of them on disk before the pool answers.
//
// The program opens the file and closes it, and can keep other buckets in it.
//
// Values are JSON, so that a person can read the journal with the bbolt
// command: `bbolt keys agent.db ipam-events`.
package boltjournal
