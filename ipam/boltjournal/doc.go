// SPDX-License-Identifier: Apache-2.0

// Package boltjournal keeps the journal of an ipam.Pool in a bbolt file.
package boltjournal
