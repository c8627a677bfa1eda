// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// lateContext is over by its deadline, but its timer has not fired.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c *lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// TestRetryTellsTheCause checks that the error of an attempt that had an answer is returned, not
// that of the last one, which ran into the deadline: also if the attempt notices the deadline
// before the context does.
func TestRetryTellsTheCause(t *testing.T) {
	refused := errors.New("connection refused")
	for name, timerFired := range map[string]bool{"timer fired": true, "timer late": false} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			late := &lateContext{ctx, time.Now().Add(time.Hour)}
			attempts := 0
			_, err := retry(late, func(context.Context) (struct{}, error) {
				switch attempts++; {
				case attempts > 3:
					cancel()
				case attempts < 3:
					return struct{}{}, refused
				}
				late.deadline = time.Now()
				if timerFired {
					cancel()
				}
				return struct{}{}, os.ErrDeadlineExceeded
			})
			if !errors.Is(err, refused) || attempts != 3 {
				t.Errorf("%v after %d attempts, want %v after 3", err, attempts, refused)
			}
		})
	}
}
