// SPDX-License-Identifier: Apache-2.0

// Journal compares implementations of the journal of an ipam.Pool: the cost of an
// ADD, the time of a restart with a thousand pods, and the result of reading damaged
// files.
//
//	go run ./internal/bench/journal -files 1600
//
// It simulates slow disks: no contender syncs, and after each append the program
// sleeps (nanosleep(2)) once for each fdatasync that the contender would have called,
// for the time that fdatasync takes on that disk.
//
// It reads each damaged journal in a separate process, which may crash or hang.
package main
