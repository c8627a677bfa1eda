// SPDX-License-Identifier: Apache-2.0

// Package waljournal keeps the intents of package eni in an append-only file
// with chained checksums. Each call returns only after its change is on disk, so
// that intents survive a crash of the process and of the machine.
//
// [Open] detects damage of any kind, including a file that ends too early or is
// older than its head. It sets damaged files aside and says so in its [Report].
//
// The directory contains three files. intents.log has one line of JSON for each
// intent that was stored or removed, between lines of checksums. intents.head
// records where intents.log ends. intents.lock is locked by the process that has
// the journal open.
package waljournal
