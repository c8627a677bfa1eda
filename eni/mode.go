// SPDX-License-Identifier: Apache-2.0

package eni

import "fmt"

// Mode is a safe mode: it restricts what a Manager may change. It is for cloud
// incidents, and for observations that are too unlikely to act on.
type Mode uint8

// The modes, each stricter than the one before.
const (
	ModeFull      Mode = iota // everything is allowed
	ModeNoRelease             // nothing is unassigned, detached or deleted
	ModeFrozen                // the Manager makes no call that changes anything
)

// String returns the mode's name as used in flags.
func (m Mode) String() string {
	switch m {
	case ModeFull:
		return "full"
	case ModeNoRelease:
		return "no-release"
	case ModeFrozen:
		return "frozen"
	}
	return fmt.Sprintf("mode(%d)", m)
}

// ParseMode returns the mode with a name: "full", "no-release" or "frozen".
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{ModeFull, ModeNoRelease, ModeFrozen} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q: want full, no-release or frozen", s)
}
