// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OwnNetns is the network namespace of the calling thread; /proc/self would be
// that of the process's first thread.
const OwnNetns = "/proc/thread-self/ns/net"

// errNotNetns is the end of an error text that begins with a path.
var errNotNetns = errors.New("not a network namespace")

// IsNoNetns reports whether err, of openNetnsFile, says that nothing is at the path or
// something else than a network namespace.
func IsNoNetns(err error) bool {
	return errors.Is(err, errNotNetns) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH)
}

// openNetnsFile opens the network namespace at path.
func OpenNetns(path string) (*os.File, error) {
	// To open a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// A sandbox that is gone leaves an empty file where it was mounted.
	if !isNetns(f) {
		return nil, errors.Join(fmt.Errorf("%s is %w", path, errNotNetns), f.Close())
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

// NetnsCookie returns the cookie of a network namespace, 0 on kernels before 5.14,
// which have none.
func NetnsCookie(ns *os.File) (id uint64, err error) {
	err = InNetns(ns, func() (err error) {
		id, err = ownCookie()
		return err
	})
	return id, err
}

// ownCookie asks a new socket for the cookie of the thread's network namespace.
func ownCookie() (uint64, error) {
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

// InNetns runs f on a thread in the namespace and comes back. The thread is
// given up if it cannot come back, so that nobody else ever runs on it.
func InNetns(ns *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.OpenFile(OwnNetns, os.O_RDONLY|unix.O_CLOEXEC, 0)
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
