// SPDX-License-Identifier: Apache-2.0

// Package boltjournal keeps the intents of package eni in a bucket of a bbolt
// file (go.etcd.io/bbolt), so that they survive a crash of the process and of
// the machine. The file can hold other buckets as well, such as the journal of
// an ipam.Pool.
//
// Values are JSON, so that a person can read them with the bbolt command:
// `bbolt keys agent.db eni-intents`.
package boltjournal
