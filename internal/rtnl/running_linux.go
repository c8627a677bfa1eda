// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"fmt"
	"time"
)

// runningEvery is the pause between two looks at a link that is not running yet.
const runningEvery = time.Millisecond

// WaitRunning returns when the link of a number, which must be up, can send. The end of a veth pair that
// comes up first has no carrier until the other end is up. A worker of the kernel then
// attaches its queue, and until that is done the kernel drops what the link sends: a
// pod would repeat its first SYN a second later. On recent kernels (6.8) a request for
// the link makes the kernel do that work at once; on older ones it takes a moment.
func (c *Conn) WaitRunning(ctx context.Context, index int) error {
	for {
		var b Batch
		b.FindIndex(index)
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		l, err := decodeAnswer(answers[0], func(body []byte) (Link, error) {
			l, _, err := decodeLinkOnly(body)
			return l, err
		})
		if err != nil {
			return fmt.Errorf("look at link: %w", err)
		}
		if l.Running {
			return nil
		}
		if !l.Up {
			return fmt.Errorf("link %s is down and will not have a carrier", l.Name)
		}
		select {
		case <-time.After(runningEvery):
		case <-ctx.Done():
			return fmt.Errorf("link has no carrier: %w", ctx.Err())
		}
	}
}
