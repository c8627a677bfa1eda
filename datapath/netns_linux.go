// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNetns is the network namespace of the calling thread; /proc/self would be
// that of the process's first thread.
const ownNetns = "/proc/thread-self/ns/net"

// openNetns opens the network namespace at path.
func openNetns(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	if err != nil {
		return nil, err
	}
	// A sandbox that is gone leaves an empty file where it was mounted.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return nil, errors.Join(fmt.Errorf("%w: %s is no namespace", ErrNoSandbox, path), f.Close())
	}
	return f, nil
}

// inNetns runs f on a thread in the namespace and comes back. The thread is
// given up if it cannot come back, so that nobody else ever runs on it.
func inNetns(ns *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.OpenFile(ownNetns, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if same(home, ns) {
			runtime.UnlockOSThread()
			result <- f()
			return
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter network namespace %s (needs CAP_SYS_ADMIN): %w", ns.Name(), err)
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// same reports whether two files are one namespace.
func same(a, b *os.File) bool {
	var x, y unix.Stat_t
	if unix.Fstat(int(a.Fd()), &x) != nil || unix.Fstat(int(b.Fd()), &y) != nil {
		return false
	}
	return x.Dev == y.Dev && x.Ino == y.Ino
}
