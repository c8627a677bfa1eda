// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNotNetns opens paths that are not network namespaces. Opening a FIFO does not
// wait for a writer.
func TestNotNetns(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, file, filepath.Join(dir, "missing"), filepath.Join(file, "below"), "/proc/thread-self/ns/mnt"} {
		if f, err := OpenNetns(path); !IsNotNetns(err) {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
}

// TestInNetns runs a function in another namespace, and then in the own one.
func TestInNetns(t *testing.T) {
	ns := ownNetns(t)
	other := newNetns(t)
	cookie := func(ns *os.File) uint64 {
		t.Helper()
		id, err := NetnsCookie(ns)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if cookie(ns) == cookie(other) {
		t.Error("two namespaces have one cookie")
	}
	for range 20 {
		if err := InNetns(other, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if own, err := ownCookie(); err != nil || own != cookie(ns) {
			t.Fatalf("cookie of the thread is %d, want %d; %v", own, cookie(ns), err)
		}
	}
	failure := errors.New("failure")
	if err := InNetns(other, func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("%v, want %v", err, failure)
	}
}

// newNetns makes a network namespace that ends with its file.
func newNetns(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	ns := ownNetns(t)
	go func() {
		runtime.LockOSThread() // it may be in the namespace already, and then stays on any thread
		defer runtime.UnlockOSThread()
		var r result
		r.err = InNetns(ns, func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			r.ns, r.err = OpenNetns(OwnNetns)
			return errors.Join(r.err, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
		})
		made <- r
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.ns.Close() })
	return r.ns
}
