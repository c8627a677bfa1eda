// SPDX-License-Identifier: Apache-2.0

// Package waljournal keeps the journal of an ipam.Pool in an append-only file
// with chained checksums.
//
// Allocations survive the end of the process, SIGKILL included. They need not
// survive the loss of power, because a reboot ends every pod: no call waits for
// the disk, and a journal of another boot is discarded. Damage of any kind,
// also a file that ends too early or is older than its head, is noticed by
// [Open], which sets the files aside and says so in its [Report].
//
// In the directory, pool.log has the events, one line of JSON each, between
// lines of checksums; pool.head says where pool.log ends; pool.lock is held by
// the process that has the journal open.
package waljournal
