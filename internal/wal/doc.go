// SPDX-License-Identifier: Apache-2.0

// Package wal is a log of records with chained checksums, and a second file that
// records where the log ends. The journals of ipam and eni use it.
//
// A log NAME in a directory consists of
//
//	NAME.log    a header, followed by the records
//	NAME.head   one line: where the log ends
//	NAME.lock   locked with flock(2) by the process that has the log open
//
// Each record has a sequence number and a checksum (SHA-256) over itself and
// the checksum of the record before it. A record that is changed, left out,
// repeated or moved breaks the chain. The chain alone cannot show that a log
// ends too early; NAME.head shows that. It has the number and the checksum of
// the last record. After each append it is overwritten in place, by one write
// within one page.
//
//	append    1. write the record   2. write the head   3. return to the caller
//	replace   1. write a new log to another file; its header has the number and
//	             the checksum of the last record of the old log, and its first
//	             record is the whole new list
//	          2. rename it over the old one   3. write the head
//
// A process that is killed between two steps leaves a head that is exactly one
// record behind. [Open] therefore accepts a head that agrees with the last record
// of the log or with the one before it; everything else is damage. Bytes after
// the record that the head names, if they are not a whole record, belong to an
// append that did not return, and are cut off.
//
// Without [Config.Sync] no call waits for the disk. The records then survive
// the end of the process, SIGKILL included, because the kernel has them. They
// need not survive a crash of the kernel: [Config.BootID] binds a log to one
// boot, and a log of another boot is discarded.
//
// Both files begin with a line of text, and the records of the journals are lines
// of JSON, so a log can be read with any pager.
package wal
