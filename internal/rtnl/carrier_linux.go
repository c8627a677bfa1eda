// SPDX-License-Identifier: Apache-2.0

package rtnl

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

// WaitRunning returns when the link can send. The end of a veth pair that is set
// up first has no carrier until the other one is up, and gets its queue only
// afterwards, from a worker of the kernel: what is sent before is dropped without
// a word, and a pod's first SYN would be repeated a second later. To ask for one
// link makes recent kernels (6.8) do that work at once; on older ones it takes a
// moment.
func WaitRunning(ctx context.Context, c *Conn, index int) error {
	for {
		var b Batch
		b.FindIndex(index)
		answers, err := c.Do(&b)
		switch {
		case err != nil:
			return err
		case answers[0].Err != nil:
			return fmt.Errorf("look at link: %w", answers[0].Err)
		case len(answers[0].Data) < 16:
			return errors.New("link message is too short")
		case binary.NativeEndian.Uint32(answers[0].Data[8:])&unix.IFF_RUNNING != 0:
			return nil
		}
		select {
		case <-time.After(runningEvery):
		case <-ctx.Done():
			return fmt.Errorf("link has no carrier: %w", ctx.Err())
		}
	}
}
