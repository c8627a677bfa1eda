// SPDX-License-Identifier: Apache-2.0

// Package filedamage damages files, in the ways in which disks, file systems,
// backups and people do, for tests of what a journal makes of it.
package filedamage
