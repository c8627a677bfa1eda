// SPDX-License-Identifier: Apache-2.0

// Package agentdb reads the journal of version 1, and closes it to that version.
//
// Version 1 kept the events of the pool and the intents of ENIs in one bbolt
// file, agent.db. [Open] reads both from it, once each. When both are in the
// journals of this version, [DB.Seal] leaves a bbolt file in its place that
// version 1 refuses with a text that says what to do.
//
// The file is read by code of our own and not by bbolt: bbolt maps it and
// trusts what it reads, so a damaged file ends the process (SIGBUS, a stack
// without end) where no caller can recover. docs/architecture.md has the count.
// Version 1 had no checksums over events. What can be checked is: both meta
// pages, the place of each page, that no page is reached twice, the order of
// keys, and that the numbers of events have no gap.
package agentdb
