// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// The rules of a pod name nothing but its address. A process that deletes rules because
// their pod is gone could delete those of a new pod with the same address. Therefore each
// namespace has a lock. An ADD that makes rules shares the lock with other ADDs, from the
// pod's routes to its rules. A process that deletes rules by address holds the lock alone,
// from the look at the routes to the deletion. An ADD of a pod with more than a veth pair
// holds it alone as well, because the kernel does not refuse all of its routes when another
// pod has the address. The lock is that of flock(2) on the namespace's own file: it holds
// between the processes of plugins and agent in all containers, and ends with a process
// that is killed.
const (
	shared = unix.LOCK_SH
	alone  = unix.LOCK_EX
)

// locked runs f with the lock, shared or alone.
func (h *kernel) locked(ctx context.Context, how int, f func() error) error {
	fd, err := h.lock(ctx, how)
	if err != nil {
		return fmt.Errorf("lock %s: %w", h.ns.Name(), err)
	}
	defer func() { _ = unix.Close(fd) }() // releases the lock
	return f()
}

// withRules lends f a socket to add the items of s, with the lock if s has rules.
func (h *kernel) withRules(ctx context.Context, s netstate.State, f func(*rtnl.Conn) error) error {
	if len(s.Rules) == 0 {
		return h.withConn(ctx, f)
	}
	return h.locked(ctx, shared, func() error { return h.withConn(ctx, f) })
}

// lock returns the descriptor that has the lock. It waits in the kernel, which gives the lock
// to one of those that wait: a hundred processes that try again and again would keep the
// processors from the one that has it.
func (h *kernel) lock(ctx context.Context, how int) (int, error) {
	// Each call opens the file for itself, because a lock belongs to the open file
	// description, and calls at the same time must not share one.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", h.ns.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = flock(fd, how|unix.LOCK_NB)
	if err == nil {
		return fd, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return -1, errors.Join(err, unix.Close(fd))
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(fd, how) }()
	select {
	case err := <-locked:
		if err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
		return fd, nil
	case <-ctx.Done():
		// The lock that comes too late is given back.
		go func() { _ = errors.Join(<-locked, unix.Close(fd)) }()
		return -1, ctx.Err()
	}
}

// flock is flock(2), which a signal may interrupt.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
