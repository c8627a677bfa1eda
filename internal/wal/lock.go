// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// lockEvery is the time between two tries of Lock.
const lockEvery = 50 * time.Millisecond

// Lock opens or creates the file at path and locks it exclusively with flock(2).
// The lock ends with the process, or when the caller closes the file. If another
// process holds the lock for longer than wait, or if ctx ends, Lock returns
// ErrInUse. A directory or a special file at path is set aside.
func Lock(ctx context.Context, path string, wait time.Duration) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if _, err := SetAside(path); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockWithin(ctx, f, wait); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

func lockWithin(ctx context.Context, f *os.File, wait time.Duration) error {
	end := time.NewTimer(wait)
	defer end.Stop()
	again := time.NewTicker(lockEvery)
	defer again.Stop()
	for {
		locked, err := tryLock(f)
		if locked || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-end.C:
			return ErrInUse
		case <-ctx.Done():
			return errors.Join(ErrInUse, context.Cause(ctx))
		}
	}
}
