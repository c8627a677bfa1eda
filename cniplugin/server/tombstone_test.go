// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
)

// write writes a tombstone, and skips the test on a system without locks.
func write(t *testing.T, dir string, s cniplugin.Tombstone) {
	t.Helper()
	err := cniplugin.WriteTombstone(dir, s)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTombstones(t *testing.T) {
	dir := cniplugin.TombstoneDir(t.TempDir())
	at := time.Date(2020, 11, 21, 12, 0, 0, 0, time.UTC)
	stone := func(id string, age time.Duration) cniplugin.Tombstone {
		return cniplugin.Tombstone{
			Attachment: cniplugin.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"},
			At:         at.Add(-age),
		}
	}
	collect := func(fail string) (n int, got []string, err error) {
		n, err = server.CollectTombstones(t.Context(), dir, func(_ context.Context, s cniplugin.Tombstone) error {
			got = append(got, s.ContainerID)
			if s.ContainerID == fail {
				return errors.New("journal is full")
			}
			return nil
		})
		return n, got, err
	}

	if n, got, err := collect(""); n != 0 || got != nil || err != nil {
		t.Errorf("collected %d, %v, %v without a directory, want nothing", n, got, err)
	}
	long := strings.Repeat("x", 300) // longer than a file name may be
	for _, s := range []cniplugin.Tombstone{stone("young", 0), stone("old", time.Hour), stone(long, time.Minute), stone("old", 2*time.Hour)} {
		write(t, dir, s)
	}
	for _, file := range []string{"", "*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, file))
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v; want no permissions for group and others", path, info.Mode(), err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "garbage.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	// Two temporary files: one of a writer that was killed, one of a writer that is
	// still at work.
	for name, at := range map[string]time.Time{".tmp-1": at.Add(-1000 * time.Hour), ".tmp-2": time.Now()} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}

	n, got, err := collect("old")
	if diff := cmp.Diff([]string{"old", long, "young"}, got); n != 2 || diff != "" {
		t.Errorf("collected %d, want 2, -want +got:\n%s", n, diff)
	}
	if err == nil || !strings.Contains(err.Error(), "journal is full") || !strings.Contains(err.Error(), "garbage.json is not a tombstone") {
		t.Errorf("errors = %v, want one of release and one about garbage.json", err)
	}
	if n, got, err := collect(""); n != 1 || len(got) != 1 || err != nil {
		t.Errorf("second time: %d, %v, %v, want the one that failed", n, got, err)
	}
	if n, _, err := collect(""); n != 0 || err != nil {
		t.Errorf("third time: %d, %v, want none", n, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".tmp-*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != ".tmp-2" {
		t.Errorf("temporary files %v, %v, want only the new one", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "garbage.json.bad")); err != nil {
		t.Error("the file that cannot be read was not renamed:", err)
	}
}

// TestCollectTombstonesCancelled checks that a collection that is cancelled keeps
// the remaining tombstones.
func TestCollectTombstonesCancelled(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"a", "b"} {
		write(t, dir, cniplugin.Tombstone{Attachment: cniplugin.Attachment{ContainerID: id}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err := server.CollectTombstones(ctx, dir, func(context.Context, cniplugin.Tombstone) error {
		cancel()
		return nil
	})
	if n != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("= %d, %v, want 1 and context.Canceled", n, err)
	}
}
