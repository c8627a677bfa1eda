// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// OwnNetns is the network namespace of the calling thread. That of /proc/self would be
// the namespace of the process's first thread.
const OwnNetns = "/proc/thread-self/ns/net"

// errNotNetns is the end of an error text that begins with a path.
var errNotNetns = errors.New("not a network namespace")

// IsNotNetns reports whether err, an error of OpenNetns, says that there is nothing at
// the path, or something else than a network namespace.
func IsNotNetns(err error) bool {
	return errors.Is(err, errNotNetns) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH)
}

// OpenNetns opens the network namespace at path. Function GetFromPath of package netns
// opens any file, and waits for a writer if that is a FIFO. The file is not in the
// runtime's poller, which it would start in a process that needs it for nothing else.
func OpenNetns(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	// A sandbox that was deleted leaves an empty file where it was mounted.
	if !isNetns(fd) {
		return nil, errors.Join(fmt.Errorf("%s is %w", path, errNotNetns), unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: err}, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// isNetns reports whether fd is a network namespace, and not another kind of file or
// namespace.
func isNetns(fd int) bool {
	const nsGetType = 0xb703 // NS_GET_NSTYPE of linux/nsfs.h, since Linux 4.11
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return false
	}
	kind, err := unix.IoctlRetInt(fd, nsGetType)
	return err != nil || kind == unix.CLONE_NEWNET
}

// NetnsCookie returns the cookie of a network namespace, or 0 on kernels before 5.14,
// which have none.
func NetnsCookie(ns *os.File) (id uint64, err error) {
	err = InNetns(ns, func() (err error) {
		id, err = ownCookie()
		return err
	})
	return id, err
}

// ownCookie returns the cookie of the thread's network namespace, which the kernel
// tells a socket.
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

// InNetns runs f on a thread in the namespace. The thread then returns to its own
// namespace; if it cannot, it ends, so that no other goroutine ever runs on it.
// Functions of package nl that take a namespace keep such a thread. If the calling
// goroutine is in the namespace already, InNetns calls f there: a goroutine that is not
// locked to its thread runs only on threads in the namespace of the process, and a locked
// one does not change its thread. This saves two threads and their wake-ups.
func InNetns(ns *os.File, f func() error) error {
	if isOwn(int(ns.Fd())) {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.GetFromPath(OwnNetns)
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("open %s: %w", OwnNetns, err)
			return
		}
		defer home.Close()
		if err := netns.Set(netns.NsHandle(ns.Fd())); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter network namespace %s (needs CAP_SYS_ADMIN): %w", ns.Name(), err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// isOwn reports whether fd is the network namespace of the thread.
func isOwn(fd int) bool {
	var target, own unix.Stat_t
	return unix.Fstat(fd, &target) == nil && unix.Stat(OwnNetns, &own) == nil && target.Dev == own.Dev && target.Ino == own.Ino
}
