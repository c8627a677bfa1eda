// SPDX-License-Identifier: Apache-2.0

// Journal compares ways to keep the journal of an ipam.Pool: what an ADD costs,
// how long a restart takes with a thousand pods, and what becomes of damaged
// files.
//
//	go run ./internal/bench/journal -files 1600
//
// A slow disk is simulated: no contender syncs, and after each append the
// program sleeps (nanosleep(2)) once for each fdatasync that the contender
// would have made, for the time that one takes on that disk.
//
// Each damaged file is read by a process of its own, which may crash or hang.
package main
