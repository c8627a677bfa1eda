// SPDX-License-Identifier: Apache-2.0

// Package filedamage damages files in the ways in which disks, file systems,
// backups and operators do, for tests of how a journal handles it.
package filedamage
