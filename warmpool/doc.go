// SPDX-License-Identifier: Apache-2.0

// Package warmpool decides how much spare address capacity a node keeps.
package warmpool
