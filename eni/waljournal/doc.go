// SPDX-License-Identifier: Apache-2.0

// Package waljournal keeps the intents of package eni in an append-only file
// with chained checksums. They are on the disk before a call returns, so they
// survive a crash of the process and of the machine.
//
// Damage of any kind, also a file that ends too early or is older than its
// head, is noticed by [Open], which sets the files aside and says so in its
// [Report].
//
// In the directory, intents.log has what was stored and removed, one line of
// JSON each, between lines of checksums; intents.head says where intents.log
// ends; intents.lock is held by the process that has the journal open.
package waljournal
