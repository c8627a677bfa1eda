// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestChangeOver: no agent opens a node while a change-over is not complete, but after a
// reboot.
func TestChangeOver(t *testing.T) {
	dir := t.TempDir()
	n := &node{cfg: Config{StateDir: dir, Socket: filepath.Join(dir, "agent.sock")}}
	o := &Offline{node: n}
	if err := o.Begin(); err != nil {
		t.Fatal(err)
	}
	if err := n.open(t.Context()); !errors.Is(err, ErrChangeOver) {
		t.Errorf("open: %v, want %v", err, ErrChangeOver)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the state directory has %v, %v", entries, err)
	}
	for range 2 {
		if err := o.Complete(); err != nil {
			t.Error(err)
		}
	}
	if err := refuseUnfinished(dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, changeFile), []byte("another boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := refuseUnfinished(dir); err != nil {
			t.Errorf("after a reboot: %v", err)
		}
	}
}
