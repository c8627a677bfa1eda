// SPDX-License-Identifier: Apache-2.0

// Package race tells tests whether the race detector is there. It makes programs slower by a
// factor of five to ten and adds nothing to a test that repeats one sequence of calls with many
// inputs, so that such a test runs with fewer of them.
package race
