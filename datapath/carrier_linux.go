// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// runningEvery is the pause between two looks at a link that is not running yet.
const runningEvery = time.Millisecond

// waitRunning returns when the link can send. The end of a veth pair that is set
// up first has no carrier until the other one is up, and gets its queue only
// afterwards, from a worker of the kernel: what is sent before is dropped without
// a word, and a pod's first SYN would be repeated a second later. To ask for one
// link makes recent kernels (6.8) do that work at once; on older ones it takes a
// moment.
func waitRunning(ctx context.Context, c *conn, index int) error {
	for {
		var b batch
		b.lookAt(index)
		answers, err := c.do(&b)
		switch {
		case err != nil:
			return err
		case answers[0].err != nil:
			return fmt.Errorf("look at link: %w", answers[0].err)
		case len(answers[0].data) < 16:
			return errors.New("link message is too short")
		case binary.NativeEndian.Uint32(answers[0].data[8:])&unix.IFF_RUNNING != 0:
			return nil
		}
		select {
		case <-time.After(runningEvery):
		case <-ctx.Done():
			return fmt.Errorf("link has no carrier: %w", ctx.Err())
		}
	}
}

// waitENI waits for the link of a whole ENI in its sandbox, which is h's.
func (h *Handle) waitENI(ctx context.Context, name string) error {
	link, err := h.findLink(ctx, name)
	if err == nil {
		err = h.withConn(ctx, func(c *conn) error { return waitRunning(ctx, c, link.index) })
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// waitPair waits for both ends of a pod's veth pair: Watch may have set up the
// host side before AddPod came to the sandbox side.
func (h *Handle) waitPair(ctx context.Context, inside *Handle, link kernelLink) error {
	err := inside.withConn(ctx, func(c *conn) error { return waitRunning(ctx, c, link.peer) })
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return h.withConn(ctx, func(c *conn) error { return waitRunning(ctx, c, link.index) })
}
