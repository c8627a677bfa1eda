// SPDX-License-Identifier: Apache-2.0

package wal_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/wal"
)

// TestDiskFull: an item that could not be written completely is not in the log
// later, and the log works again when there is space.
func TestDiskFull(t *testing.T) {
	isolatetest.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l, _ := mustOpen(t, dir, config())
	var want []string
	for size := 3000; size > 10; size /= 2 { // until not even a short item fits
		for {
			item := strings.Repeat("x", size)
			err := l.Append(items(item))
			if err == nil {
				want = append(want, item)
				continue
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	if err := l.Replace(items(want...)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("replace on a full disk: %v", err)
	}
	again := func() {
		t.Helper()
		if got := mustLoad(t, l); !slices.Equal(got, want) {
			t.Fatalf("%d items, want %d", len(got), len(want))
		}
		_ = l.Close()
		var r wal.Report
		if l, r = mustOpen(t, dir, config()); r.Why != nil || !slices.Equal(mustLoad(t, l), want) {
			t.Fatalf("after reopening: %+v", r)
		}
	}
	again()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=256k,mode=700"); err != nil {
		t.Fatal(err)
	}
	want = append(want, "now it fits")
	if err := l.Append(items("now it fits")); err != nil {
		t.Fatal(err)
	}
	again()
	want = []string{"alone"}
	if err := l.Replace(items(want...)); err != nil {
		t.Fatal(err)
	}
	again()
}

// TestReadOnly: a file system that became read-only is an error, not damage.
func TestReadOnly(t *testing.T) {
	isolatetest.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l, _ := mustOpen(t, dir, config())
	_ = l.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := wal.Open(t.Context(), dir, config()); !errors.Is(err, unix.EROFS) {
		t.Errorf("open: %v", err)
	}
}

// TestUnreadable: a file that may not be read is set aside like a damaged one.
func TestUnreadable(t *testing.T) {
	all := history(t)
	for _, name := range []string{"pool.log", "pool.head"} {
		dir := writeFiles(t, all[5].files)
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
		var r wal.Report
		unprivileged(t, func() {
			var l *wal.Log
			var err error
			if l, r, err = wal.Open(t.Context(), dir, config()); err == nil {
				_ = l.Close()
			} else {
				t.Error(err)
			}
		})
		if !errors.Is(r.Why, wal.ErrDamaged) || !errors.Is(r.Why, os.ErrPermission) || len(r.SetAside) != 2 {
			t.Errorf("%s: report %+v", name, r)
		}
	}
}

// TestNamedPipe: Open does not open a named pipe, which would block.
func TestNamedPipe(t *testing.T) {
	all := history(t)
	for _, name := range []string{"pool.log", "pool.head", "pool.lock"} {
		files := maps.Clone(all[5].files)
		delete(files, name)
		dir := writeFiles(t, files)
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		if same := check(t, dir, "pipe "+name, all[5].want); same != (name == "pool.lock") {
			t.Errorf("%s is a pipe: accepted is %v", name, same)
		}
	}
}

// unprivileged runs f without the capability to read files despite their permissions.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capset(&hdr, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// TestInUse: only one process can have a log open. A second one waits for
// Config.Wait.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, config())
	if _, _, err := wal.Open(t.Context(), dir, config()); !errors.Is(err, wal.ErrInUse) {
		t.Errorf("without a wait: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg := config()
	cfg.Wait = time.Hour
	if _, _, err := wal.Open(ctx, dir, cfg); !errors.Is(err, wal.ErrInUse) || !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	done := make(chan error)
	go func() {
		next, _, err := wal.Open(t.Context(), dir, cfg)
		if err == nil {
			err = next.Close()
		}
		done <- err
	}()
	if err := l.Append(items("a")); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("while the first one closes: %v", err)
	}
}
