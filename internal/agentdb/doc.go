// SPDX-License-Identifier: Apache-2.0

// Package agentdb reads the journal of version 1, and then makes that version
// refuse it.
//
// Version 1 kept the events of the pool and the intents of ENIs in one bbolt
// file, agent.db. [Open] reads both of them once. When both are in the journals
// of this version, [DB.Seal] replaces agent.db by a bbolt file that version 1
// refuses with an error that says what to do.
//
// The package reads the file without bbolt. bbolt maps the file into memory and
// trusts it, so a damaged file ends the process (by SIGBUS or by endless
// recursion) where no caller can recover; docs/architecture.md has the count.
// Version 1 had no checksums over events. This package checks both meta pages,
// the position of each page, that no page is reached twice, the order of keys,
// and that the numbers of events have no gap.
package agentdb
