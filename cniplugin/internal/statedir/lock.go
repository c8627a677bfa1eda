// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"time"
)

const (
	// lockName is the lock file. Each attachment has one byte of it, and holds
	// its lock by locking that byte.
	lockName = "lock"

	// The first and the longest pause between two attempts to get the lock.
	firstPause = 500 * time.Microsecond
	maxPause   = 10 * time.Millisecond
)

// ErrBusy means that another process holds the lock of the attachment.
var ErrBusy = errors.New("another command for this attachment has not ended")

// Lock is the lock of one attachment. While a plugin process or the agent holds
// it, no other process works on the same attachment. The kernel releases it when
// the process ends, however it ends, so that no file has to be cleaned up.
type Lock struct {
	file io.Closer
	// Since is the time just before the lock was acquired.
	Since time.Time
}

// Acquire waits for the lock of key until ctx ends, and then returns an error
// that wraps [ErrBusy] if another process still holds it. It makes at least one
// attempt. The lock file is in dir, which Acquire creates if it does not exist.
func Acquire(ctx context.Context, dir, key string) (*Lock, error) {
	f, err := openLock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		l, err := f.lock(key)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, ErrBusy) || sleep(ctx, pause) != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// TryAcquire is Acquire with exactly one attempt.
func TryAcquire(dir, key string) (*Lock, error) {
	f, err := openLock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	l, err := f.lock(key)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// lock makes one attempt to lock the byte of key.
func (f lockFile) lock(key string) (*Lock, error) {
	now := time.Now()
	if err := f.try(lockOffset(key)); err != nil {
		return nil, err
	}
	return &Lock{f, now}, nil
}

// Release releases the lock.
func (l *Lock) Release() { _ = l.file.Close() }

// lockOffset returns the byte of the lock file that belongs to key. The kernel
// accepts offsets of 63 bits, and the end of the byte must fit as well. Two
// attachments with the same byte wait for each other, which does no harm.
func lockOffset(key string) int64 {
	sum := sha256.Sum256([]byte(key))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
