// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// lockPause is the first pause between two tries to get the lock, which is usually held
// for a few system calls. Each further pause is twice as long, up to lockPauseMost.
const (
	lockPause     = 100 * time.Microsecond
	lockPauseMost = 5 * time.Millisecond
)

// lock returns the descriptor that has the lock.
func (h *kernel) lock(ctx context.Context, how int) (fd int, err error) {
	// Each call opens the file for itself, because a lock belongs to the open file
	// description, and calls at the same time must not share one.
	if fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", h.ns.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, err
	}
	for pause := lockPause; ; pause = min(2*pause, lockPauseMost) {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return -1, errors.Join(err, unix.Close(fd))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return -1, errors.Join(ctx.Err(), unix.Close(fd))
		}
	}
}
