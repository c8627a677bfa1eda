// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// threadNetns is the network namespace of the calling thread. /proc/self would name
// the namespace of the first thread.
const threadNetns = "/proc/thread-self/ns/net"

// Netns is a network namespace. It is safe for concurrent use.
type Netns struct {
	path string
	file *os.File
}

// CreateNetns creates a namespace with lo up and mounts it at path, which must not
// exist. The caller must delete it.
func CreateNetns(path string) (*Netns, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, err
	}
	f.Close()
	err = onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		if err := unix.Mount(threadNetns, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		return nil
	})
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("create namespace %s: %w", path, err)
	}
	n, err := OpenNetns(path)
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
	}
	if err := n.linkUp("lo"); err != nil {
		return nil, errors.Join(err, n.Delete())
	}
	return n, nil
}

// OpenNetns opens the namespace at path. The caller must close it.
func OpenNetns(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &Netns{path: path, file: f}, nil
}

// Name returns the last element of the path.
func (n *Netns) Name() string { return filepath.Base(n.path) }

// Path returns the path at which the namespace is mounted.
func (n *Netns) Path() string { return n.path }

// Close closes the handle. The namespace remains.
func (n *Netns) Close() error { return n.file.Close() }

// Delete unmounts the namespace and removes its path. The namespace itself remains
// as long as a process or a socket is in it.
func (n *Netns) Delete() error {
	err := n.file.Close()
	if e := unix.Unmount(n.path, unix.MNT_DETACH); e != nil && !errors.Is(e, unix.EINVAL) && !errors.Is(e, unix.ENOENT) {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", n.path, e))
	}
	if e := os.Remove(n.path); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// Do runs fn in the namespace, on another goroutine than the caller's, and returns
// its error. Sockets and processes that fn creates are in the namespace and stay
// there. Goroutines that fn starts are not.
func (n *Netns) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.path, err)
		}
		return nil
	}, fn)
}

// onThread calls move, which changes the namespace of the thread, and then fn, on a
// locked goroutine. If the thread cannot return to its first namespace, the
// goroutine ends locked, and so the runtime ends the thread.
func onThread(move, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine, want a return")
		defer func() { result <- err }()
		runtime.LockOSThread()
		home, e := os.Open(threadNetns)
		if e != nil {
			err = e
			return
		}
		defer home.Close()
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		if err = move(); err == nil {
			err = fn()
		}
	}()
	return <-result
}

// Sysctl writes a value to a file below /proc/sys/net, such as "ipv4/ip_forward".
func (n *Netns) Sysctl(name, value string) error {
	return n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	})
}

// sysctls writes several values, given as alternating names and values. It skips those of
// IPv6 if the kernel has none.
func (n *Netns) sysctls(pairs ...string) error {
	return n.Do(func() error {
		for i := 0; i < len(pairs); i += 2 {
			if strings.HasPrefix(pairs[i], "ipv6/") && !hasIPv6() {
				continue
			}
			if err := os.WriteFile(filepath.Join("/proc/sys/net", pairs[i]), []byte(pairs[i+1]), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// handle opens a route netlink handle in the namespace. The caller must close it.
func (n *Netns) handle() (*netlink.Handle, error) {
	return netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
}

func (n *Netns) linkUp(name string) error {
	h, err := n.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s in %s: %w", name, n.path, err)
	}
	return h.LinkSetUp(link)
}

// Send sends a UDP datagram with any source address, whether the namespace has that
// address or not.
func (n *Netns) Send(from, to netip.AddrPort, payload []byte) error {
	domain, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
	var src, dst unix.Sockaddr = sockaddr6(from), sockaddr6(to)
	if to.Addr().Is4() {
		domain, level, option = unix.AF_INET, unix.IPPROTO_IP, unix.IP_TRANSPARENT
		src, dst = sockaddr4(from), sockaddr4(to)
	}
	return n.Do(func() error {
		s, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		// IP_TRANSPARENT allows the socket to bind to an address that is not local.
		if err := unix.SetsockoptInt(s, level, option, 1); err != nil {
			return fmt.Errorf("IP_TRANSPARENT: %w", err)
		}
		if err := unix.Bind(s, src); err != nil {
			return fmt.Errorf("bind %v: %w", from, err)
		}
		return unix.Sendto(s, payload, 0, dst)
	})
}

func sockaddr4(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func sockaddr6(a netip.AddrPort) *unix.SockaddrInet6 {
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
