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
	// To open a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	if err != nil {
		return nil, err
	}
	// A sandbox that is gone leaves an empty file where it was mounted.
	if !isNetns(f) {
		return nil, errors.Join(fmt.Errorf("%w: %s is not a network namespace", ErrNoSandbox, path), f.Close())
	}
	return f, nil
}

// isNetns reports whether f is a network namespace, and no other kind of file or
// namespace.
func isNetns(f *os.File) bool {
	const nsGetType = 0xb703 // NS_GET_NSTYPE of linux/nsfs.h, since Linux 4.11
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return false
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), nsGetType)
	return err != nil || kind == unix.CLONE_NEWNET
}

// SandboxID returns the identity of the network namespace at path: its cookie, a
// number that the kernel gives to no other namespace until the machine boots again,
// unlike the inode. It is 0 on kernels before 5.14, which have no cookies. The error is
// ErrNoSandbox if nothing is at path or what is there is not a network namespace. To
// enter the namespace it needs CAP_SYS_ADMIN.
func SandboxID(path string) (uint64, error) {
	ns, err := openNetns(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	var id uint64
	err = inNetns(ns, func() (err error) {
		id, err = netnsCookie()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("identity of network namespace %s: %w", path, err)
	}
	return id, nil
}

// netnsCookie asks a new socket for the cookie of the thread's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	id, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	return id, err
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
