// SPDX-License-Identifier: Apache-2.0

package cniplugin

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
	// lockName is the file in the directory of tombstones of which every
	// attachment has one byte: a lock of that byte is the attachment's.
	lockName = "lock"
	// lockWait is how long a DEL waits for the lock. A command holds it for some
	// milliseconds, or for as long as an ADD waits for an address; the holder can
	// also have been stopped, and then the pod must go nevertheless.
	lockWait = 5 * time.Second
	// fenceAfter is the age of an ADD's lock from which on a DEL may have gone on
	// without it. It is less than lockWait, so that no such DEL is missed.
	fenceAfter = lockWait - time.Second

	// The first pause between two tries to get the lock, and the longest.
	firstLockPause = 500 * time.Microsecond
	lastLockPause  = 10 * time.Millisecond
)

// errBusy means that another process holds the lock of the attachment.
var errBusy = errors.New("another command for this attachment has not ended")

// attachmentLock keeps other plugin processes and the agent's collection of
// tombstones from working on the same attachment. The kernel releases it when
// the process ends, however it ends, and no file has to be cleaned up.
type attachmentLock struct {
	file io.Closer
	// since is not later than the moment at which the lock was taken.
	since time.Time
}

// lockAttachment takes the lock of a until ctx ends; an error that is errBusy
// then says that another process has it. The lock file is in dir, which is made
// if need be. A context that has ended means one try.
func lockAttachment(ctx context.Context, dir string, a Attachment) (*attachmentLock, error) {
	f, err := openLock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	for pause := firstLockPause; ; pause = min(2*pause, lastLockPause) {
		now := time.Now()
		err := f.try(lockOffset(a))
		if err == nil {
			return &attachmentLock{f, now}, nil
		}
		if !errors.Is(err, errBusy) || sleep(ctx, pause) != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// tryLockAttachment is lockAttachment without waiting.
func tryLockAttachment(dir string, a Attachment) (*attachmentLock, error) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return lockAttachment(ended, dir, a)
}

func (l *attachmentLock) unlock() { _ = l.file.Close() }

// lockOffset gives each attachment a byte of the lock file. The kernel takes
// offsets of 63 bits, of which the end of the byte needs one. Two attachments
// with the same byte wait for each other, which is no harm.
func lockOffset(a Attachment) int64 {
	sum := sha256.Sum256([]byte(a.String()))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2)
}
