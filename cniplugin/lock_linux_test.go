// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLockAttachment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	a, b := Attachment{"vpcnet", "c1", "eth0"}, Attachment{"vpcnet", "c1", "eth1"}
	before := time.Now()
	first, err := lockAttachment(t.Context(), dir, a)
	if err != nil {
		t.Fatal(err)
	}
	if first.since.Before(before) || time.Since(first.since) < 0 {
		t.Errorf("lock since %v", first.since)
	}
	if info, err := os.Stat(filepath.Join(dir, lockName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("lock file: %v, %v", info, err)
	}
	if _, err := tryLockAttachment(dir, a); !errors.Is(err, errBusy) {
		t.Errorf("second lock of one attachment: %v, want errBusy", err)
	}
	other, err := tryLockAttachment(dir, b)
	if err != nil {
		t.Fatal("lock of another attachment:", err)
	}
	other.unlock()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lockAttachment(ctx, dir, a); !errors.Is(err, errBusy) {
		t.Errorf("lock until the deadline: %v, want errBusy", err)
	}
	got := make(chan error)
	go func() {
		l, err := lockAttachment(t.Context(), dir, a)
		if err == nil {
			l.unlock()
		}
		got <- err
	}()
	first.unlock()
	if err := <-got; err != nil {
		t.Error("lock after the first was released:", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lockAttachment(t.Context(), file, a); err == nil || errors.Is(err, errBusy) {
		t.Errorf("lock in a directory that is a file: %v", err)
	}
}

// Offsets stay clear of the sign and of the end of the byte.
func TestLockOffset(t *testing.T) {
	seen := map[int64]bool{}
	for i := range 1000 {
		off := lockOffset(Attachment{"vpcnet", string(rune('a' + i)), "eth0"})
		if off < 0 || off >= 1<<62 || seen[off] {
			t.Fatalf("offset %#x", off)
		}
		seen[off] = true
	}
}

// BenchmarkLock is what the lock adds to a command.
func BenchmarkLock(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		l, err := lockAttachment(b.Context(), dir, Attachment{"vpcnet", "c1", "eth0"})
		if err != nil {
			b.Fatal(err)
		}
		l.unlock()
	}
}
