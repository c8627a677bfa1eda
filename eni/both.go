// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// both runs two functions at the same time and returns when both have returned.
// With extra > 0, the context of one that is still running that long after the
// other has succeeded ends. A panic of either is handed on to the caller.
func both(ctx context.Context, extra time.Duration, a, b func(context.Context) error) (errA, errB error) {
	ctxA, stopA := context.WithCancel(ctx)
	defer stopA()
	ctxB, stopB := context.WithCancel(ctx)
	defer stopB()
	var all sync.WaitGroup
	var one, other attempt
	all.Go(func() { one.run(ctxA, a, extra, stopB) })
	all.Go(func() { other.run(ctxB, b, extra, stopA) })
	all.Wait()
	for _, t := range []*attempt{&one, &other} {
		if t.limit != nil {
			t.limit.Stop()
		}
		if t.thrown != nil {
			panic(t.thrown)
		}
	}
	if ctx.Err() != nil {
		return one.err, other.err
	}
	return gaveUp(ctxA, one.err, extra), gaveUp(ctxB, other.err, extra)
}

// attempt is one half of both.
type attempt struct {
	err    error
	limit  *time.Timer // ends the other half
	thrown any         // a panic
}

func (t *attempt) run(ctx context.Context, do func(context.Context) error, extra time.Duration, stopOther context.CancelFunc) {
	defer func() { t.thrown = recover() }()
	if t.err = do(ctx); t.err == nil && extra > 0 {
		t.limit = time.AfterFunc(extra, stopOther)
	}
}

// gaveUp makes the error of a source that was not waited for say so.
func gaveUp(ctx context.Context, err error, extra time.Duration) error {
	var op *OpError
	if ctx.Err() == nil || !errors.As(err, &op) || op.Code != "" {
		return err
	}
	late := *op
	late.Err = fmt.Errorf("no answer %v after the other source had answered", extra)
	return &late
}
