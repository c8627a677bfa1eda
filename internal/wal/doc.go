// SPDX-License-Identifier: Apache-2.0

// Package wal is a log of records whose checksums are chained, with a second
// file that witnesses how far the log goes. The journals of ipam and eni are
// made from it.
//
// A log NAME in a directory consists of
//
//	NAME.log    a header, and records one after the other
//	NAME.head   one line: where the log ends
//	NAME.lock   held with flock(2) by the process that has the log open
//
// Each record has a sequence number and a checksum (SHA-256) over itself and
// the checksum of the record before it. So a record that is changed, left out,
// repeated or moved breaks the chain. What the chain cannot show is a log that
// ends too early; NAME.head shows that. It holds the number and the checksum of
// the last record and is overwritten in place, by one write within one page,
// after each append.
//
//	append    1. write the record   2. write the head   3. answer the caller
//	replace   1. write a new log aside; its header carries the number and the
//	             checksum of the last record of the old log, its first record
//	             is the whole new list
//	          2. rename it over the old one   3. write the head
//
// A process that is killed between two steps leaves a head that is exactly one
// record behind. [Open] therefore demands that the head agrees with the last
// record of the log or with the one before it; everything else is damage.
// Bytes after the record that the head names, if they are no whole record, are
// an append that was never answered, and are cut off.
//
// Without [Config.Sync] no call waits for the disk. The records then survive
// the end of the process, SIGKILL included, because the kernel has them. They
// need not survive a crash of the kernel: [Config.BootID] binds a log to one
// boot, and a log of another boot is discarded.
//
// Both files begin with a line of text and the records of our journals are
// lines of JSON, so that a person can read a log with any pager.
package wal
