// SPDX-License-Identifier: Apache-2.0

// Package waljournal stores the journal of an ipam.Pool in an append-only file
// with chained checksums.
//
// Allocations survive the end of the process, SIGKILL included. They need not
// survive the loss of power, because a reboot ends every pod: no call waits for
// the disk, and a journal of another boot is discarded. [Open] detects damage of
// any kind, including a file that ends too early or is older than its head. It
// then sets the files aside and describes the damage in its [Report].
//
// The directory has three files: pool.log has the events, one line of JSON each,
// between lines of checksums; pool.head records where pool.log ends; pool.lock is
// locked by the process that has the journal open.
package waljournal
