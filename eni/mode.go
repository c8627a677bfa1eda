// SPDX-License-Identifier: Apache-2.0

package eni

import "fmt"

// Mode restricts what a Manager may change, for cloud incidents and for views
// of the world that are too strange to act on.
type Mode uint8

// The modes, each stricter than the one before.
const (
	ModeFull      Mode = iota // everything
	ModeNoRelease             // nothing is unassigned, detached or deleted
	ModeFrozen                // no mutating call at all
)

// String is the mode's name as used in flags.
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

// ParseMode is the reverse of Mode.String.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{ModeFull, ModeNoRelease, ModeFrozen} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q: want full, no-release or frozen", s)
}
