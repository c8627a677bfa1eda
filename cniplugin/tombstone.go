// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
)

// TombstoneDir returns the directory of tombstones in a state directory.
func TombstoneDir(stateDir string) string { return stateDir + "/tombstones" }

// WriteTombstone records in dir, which it makes if need be, that an attachment
// is gone. When it returns nil the record survives a crash of the machine.
// Writing the same attachment again replaces the record.
func WriteTombstone(dir string, t Tombstone) error { return errors.ErrUnsupported }

// CollectTombstones calls release for each tombstone in dir, oldest first, and
// removes those for which it returned nil; it returns their number. A directory
// that does not exist is empty. Errors of release are joined and leave their
// tombstones for the next time.
//
// An agent calls it when it starts, again once it listens, because a plugin may
// have found it away until then, and now and then after that. While it runs, an
// ADD of an attachment that has a tombstone waits.
func CollectTombstones(ctx context.Context, dir string, release func(context.Context, Tombstone) error) (int, error) {
	return 0, errors.ErrUnsupported
}
