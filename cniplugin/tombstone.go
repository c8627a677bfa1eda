// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// Tombstone records that the plugin has deleted an attachment while the agent
// was away. The agent releases the addresses of the attachment when it collects
// the tombstone, see package server.
type Tombstone struct {
	Attachment
	// At is when the plugin took the attachment down.
	At time.Time `json:"at"`
}

// String returns all fields, as in "vpcnet/4f1c/eth0 deleted at 2026-11-29T16:27:00Z".
func (t Tombstone) String() string {
	return t.Attachment.String() + " deleted at " + t.At.Format(time.RFC3339Nano)
}

// TombstoneDir returns the directory of tombstones in a state directory.
func TombstoneDir(stateDir string) string { return filepath.Join(stateDir, "tombstones") }

// WriteTombstone writes t to dir, which it creates if it does not exist. A second
// tombstone for the same attachment replaces the first. When WriteTombstone
// returns nil, the tombstone survives a crash of the machine.
func WriteTombstone(dir string, t Tombstone) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return statedir.WriteFile(statedir.RecordPath(dir, t.Attachment.String()), append(b, '\n'), 0o600)
}

// removeTombstone removes the tombstone of a, so that no collection releases a
// because of an earlier DEL. The caller must hold the lock of a: a collection
// that has already begun would release it all the same.
func removeTombstone(dir string, a Attachment) error {
	return statedir.RemoveRecord(dir, a.String())
}
