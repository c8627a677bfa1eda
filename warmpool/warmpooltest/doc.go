// SPDX-License-Identifier: Apache-2.0

// Package warmpooltest checks that a warm pool policy behaves, as testing/fstest
// does for a file system.
package warmpooltest
