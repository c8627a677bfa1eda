// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	const a, b = "vpcnet/c1/eth0", "vpcnet/c1/eth1"
	before := time.Now()
	first, err := Acquire(t.Context(), dir, a)
	if err != nil {
		t.Fatal(err)
	}
	if first.Since.Before(before) || time.Since(first.Since) < 0 {
		t.Errorf("lock since %v, want a time between %v and now", first.Since, before)
	}
	if info, err := os.Stat(filepath.Join(dir, lockName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("lock file: %v, %v, want mode 0600", info, err)
	}
	if _, err := TryAcquire(dir, a); !errors.Is(err, ErrBusy) {
		t.Errorf("second lock of one attachment: %v, want ErrBusy", err)
	}
	other, err := TryAcquire(dir, b)
	if err != nil {
		t.Fatal("lock of another attachment:", err)
	}
	other.Release()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Acquire(ctx, dir, a); !errors.Is(err, ErrBusy) {
		t.Errorf("lock until the deadline: %v, want ErrBusy", err)
	}
	got := make(chan error)
	go func() {
		l, err := Acquire(t.Context(), dir, a)
		if err == nil {
			l.Release()
		}
		got <- err
	}()
	first.Release()
	if err := <-got; err != nil {
		t.Error("lock after the first was released:", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(t.Context(), file, a); err == nil || errors.Is(err, ErrBusy) {
		t.Errorf("lock in a directory that is a file: %v, want an error other than ErrBusy", err)
	}
}

// TestLockOffset checks that offsets are not negative and leave room for the end
// of the byte.
func TestLockOffset(t *testing.T) {
	seen := map[int64]bool{}
	for i := range 1000 {
		off := lockOffset("vpcnet/" + string(rune('a'+i)) + "/eth0")
		if off < 0 || off >= 1<<62 || seen[off] {
			t.Fatalf("offset %#x, want a new one from 0 to 1<<62", off)
		}
		seen[off] = true
	}
}

// BenchmarkLock measures what the lock adds to a command.
func BenchmarkLock(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		l, err := Acquire(b.Context(), dir, "vpcnet/c1/eth0")
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}
