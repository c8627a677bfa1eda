// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// lockSuffix ends the name of the file that a listening process holds locked.
	// The kernel releases the lock when the process ends, however it ends. So the
	// lock shows whether a socket is in use, without connecting to it.
	lockSuffix = ".lock"
	// freshSuffix ends the name of the socket until its mode is set.
	freshSuffix = ".new"
	// maxPath is the length of sun_path without the final zero.
	maxPath = 107
)

// listener is a listener. Its Close removes the socket and releases the lock.
type listener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// Listen listens on a unix socket at path, which only its owner may open. It
// creates missing parent directories, and replaces a socket that a dead process
// has left behind. If another process is listening on the socket, the error wraps
// [ErrInUse]. Closing the listener removes the socket. The file PATH.lock stays: a
// process holds it locked while it listens.
func Listen(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New("listen: the path of the socket is empty")
	}
	fresh := path + freshSuffix
	if len(fresh) > maxPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, want at most %d", path, len(path), maxPath-len(freshSuffix))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + lockSuffix)
	if err != nil {
		return nil, err
	}
	l, err := bind(fresh, path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &listener{UnixListener: l, path: path, lock: lock}, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// bind creates the socket at fresh, sets its mode there, and renames it to path.
// So other users can never open the socket at path, and a socket of a dead process
// is replaced without a moment in which path does not exist.
func bind(fresh, path string) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: the file is not a socket; remove it", path)
	}
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}

// Close removes the socket before it stops listening, so that no plugin can connect
// to a socket that is no longer served.
func (l *listener) Close() error {
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.UnixListener.Close(), l.lock.Close())
}

// peerGone reports whether the process at the other end of conn has closed conn or
// has ended. It is false if the process has closed only its sending side.
func peerGone(conn net.Conn) bool {
	gone := false
	_ = control(conn, func(fd uintptr) error {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		gone = err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return err
	})
	return gone
}

// peerUID returns the user ID of the process at the other end of conn, at the time
// when it connected.
//
// https://man7.org/linux/man-pages/man7/unix.7.html, SO_PEERCRED
func peerUID(conn net.Conn) (uint32, error) {
	var uid uint32
	err := control(conn, func(fd uintptr) error {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid = cred.Uid
		}
		return os.NewSyscallError("getsockopt", err)
	})
	return uid, err
}

// control calls f with the descriptor of a unix socket.
func control(conn net.Conn, f func(fd uintptr) error) error {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%T is not a unix socket", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(fd) })
	return errors.Join(err, failed)
}
