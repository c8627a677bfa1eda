// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

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
)

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
		n, err = cniplugin.CollectTombstones(t.Context(), dir, func(_ context.Context, s cniplugin.Tombstone) error {
			got = append(got, s.ContainerID)
			if s.ContainerID == fail {
				return errors.New("journal is full")
			}
			return nil
		})
		return n, got, err
	}

	if n, got, err := collect(""); n != 0 || got != nil || err != nil {
		t.Errorf("without a directory: %d, %v, %v", n, got, err)
	}
	long := strings.Repeat("x", 300) // longer than a file name may be
	for _, s := range []cniplugin.Tombstone{stone("young", 0), stone("old", time.Hour), stone(long, time.Minute), stone("old", 2*time.Hour)} {
		err := cniplugin.WriteTombstone(dir, s)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"", "*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, file))
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v; want it to be its owner's alone", path, info.Mode(), err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "garbage.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	// What writers have left that were killed, and what one writes just now.
	for name, at := range map[string]time.Time{".tmp-1": at.Add(-1000 * time.Hour), ".tmp-2": time.Now()} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}

	n, got, err := collect("old")
	if diff := cmp.Diff([]string{"old", long, "young"}, got); n != 2 || diff != "" {
		t.Errorf("collected %d, -want +got:\n%s", n, diff)
	}
	if err == nil || !strings.Contains(err.Error(), "journal is full") || !strings.Contains(err.Error(), "garbage.json is no tombstone") {
		t.Errorf("errors = %v", err)
	}
	if n, got, err := collect(""); n != 1 || len(got) != 1 || err != nil {
		t.Errorf("second time: %d, %v, %v, want the one that failed", n, got, err)
	}
	if n, _, err := collect(""); n != 0 || err != nil {
		t.Errorf("third time: %d, %v", n, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".tmp-*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != ".tmp-2" {
		t.Errorf("temporary files %v, %v, want the new one only", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "garbage.json.bad")); err != nil {
		t.Error("what cannot be read was not kept:", err)
	}
}

// A collection that is cancelled keeps what it has not got to.
func TestCollectTombstonesCancelled(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"a", "b"} {
		s := cniplugin.Tombstone{Attachment: cniplugin.Attachment{ContainerID: id}}
		if err := cniplugin.WriteTombstone(dir, s); errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err := cniplugin.CollectTombstones(ctx, dir, func(context.Context, cniplugin.Tombstone) error {
		cancel()
		return nil
	})
	if n != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("= %d, %v, want 1 and the cancellation", n, err)
	}
}
