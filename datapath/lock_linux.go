// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// A pod's rules name nothing of the pod but its address: whoever deletes some
// because no pod is there any more may hit those of a new pod of that address. So
// there is a lock for each namespace. An ADD that makes rules shares it with other
// ADDs from the pod's routes to its rules; whoever deletes rules by address alone has
// it alone from the look at the routes to the deletion. It is that of flock(2) on the
// namespace's own file, which holds between the processes of plugins and agent, in
// whatever container they are, and ends with a process that is killed.
const (
	shared = unix.LOCK_SH
	alone  = unix.LOCK_EX
)

// locked runs f with the lock.
func (h *Handle) locked(ctx context.Context, how int, f func() error) error {
	file, err := h.lock(ctx, how)
	if err != nil {
		return fmt.Errorf("lock %s: %w", h.ns.Name(), err)
	}
	defer file.Close() // and with it the lock
	return f()
}

// withRules lends f a socket to make s, with the lock if rules are part of it.
func (h *Handle) withRules(ctx context.Context, s netstate.State, f func(*rtnl.Conn) error) error {
	if len(s.Rules) == 0 {
		return h.withConn(ctx, f)
	}
	return h.locked(ctx, shared, func() error { return h.withConn(ctx, f) })
}

// lockPause is the first pause between two tries to get the lock, which nobody keeps
// for longer than some system calls; each further one is twice as long, up to
// lockPauseMost.
const (
	lockPause     = 100 * time.Microsecond
	lockPauseMost = 5 * time.Millisecond
)

func (h *Handle) lock(ctx context.Context, how int) (*os.File, error) {
	// A file opened of its own: a lock belongs to what open returned, which calls at
	// the same time must not have in common.
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", h.ns.Fd()))
	if err != nil {
		return nil, err
	}
	for pause := lockPause; ; pause = min(2*pause, lockPauseMost) {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, file.Close())
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		}
	}
}
