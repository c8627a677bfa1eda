// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// TestCollectOddTombstones checks that a FIFO or a directory among the tombstones
// does not block the collection of the others.
func TestCollectOddTombstones(t *testing.T) {
	dir := t.TempDir()
	if err := mkfifo(filepath.Join(dir, "fifo.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cniplugin.WriteTombstone(dir, cniplugin.Tombstone{Attachment: pod1}); err != nil {
		t.Fatal(err)
	}
	n, err := server.CollectTombstones(t.Context(), dir, func(context.Context, cniplugin.Tombstone) error { return nil })
	if n != 1 || err == nil || !strings.Contains(err.Error(), "fifo.json is not a tombstone") || !strings.Contains(err.Error(), "dir.json is not a tombstone") {
		t.Errorf("CollectTombstones = %d, %v, want 1 and an error for each of the others", n, err)
	}
	if _, err := server.CollectTombstones(t.Context(), dir, nil); err == nil {
		t.Error("CollectTombstones without a release succeeds")
	}
}

// TestZeroValues checks that zero values give an error and do not panic.
func TestZeroValues(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := server.Listen(""); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("Listen of no path = %v, want an error", err)
	}
	if left, _ := os.ReadDir("."); len(left) > 0 {
		t.Errorf("Listen of no path leaves %v", left)
	}
	if err := new(server.Server).Serve(t.Context(), nil); err == nil {
		t.Error("Serve without a listener succeeds")
	}
	if err := (&server.Server{Backend: new(servertest.Agent)}).Serve(t.Context(), nil); err == nil {
		t.Error("Serve without a listener succeeds")
	}
	agent := new(servertest.Agent)
	if got, err := agent.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1}); err != nil || len(got.Addresses) > 0 {
		t.Errorf("Add of a zero Agent = %+v, %v, want no address", got, err)
	}
	if err := cniplugin.WriteTombstone("", cniplugin.Tombstone{}); err == nil {
		t.Error("WriteTombstone to no directory succeeds")
	}
}
