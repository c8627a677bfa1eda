// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// runBoth runs two functions concurrently and returns when both have returned. If
// extra is positive and one function succeeds, runBoth cancels the context of the
// other after that time. A panic of either function continues in the caller.
func runBoth(ctx context.Context, extra time.Duration, a, b func(context.Context) error) (errA, errB error) {
	ctxA, stopA := context.WithCancel(ctx)
	defer stopA()
	ctxB, stopB := context.WithCancel(ctx)
	defer stopB()
	var all sync.WaitGroup
	var taskA, taskB task
	all.Go(func() { taskA.run(ctxA, a, extra, stopB) })
	all.Go(func() { taskB.run(ctxB, b, extra, stopA) })
	all.Wait()
	for _, t := range []*task{&taskA, &taskB} {
		if t.timer != nil {
			t.timer.Stop()
		}
		if t.panicked != nil {
			panic(t.panicked)
		}
	}
	if ctx.Err() != nil {
		return taskA.err, taskB.err
	}
	return describeTimeout(ctxA, taskA.err, extra), describeTimeout(ctxB, taskB.err, extra)
}

// task is one of the two functions of runBoth.
type task struct {
	err      error
	timer    *time.Timer // cancels the other task
	panicked any         // the value of a panic
}

// run calls do, and starts the timer for the other task if do succeeds.
func (t *task) run(ctx context.Context, do func(context.Context) error, extra time.Duration, stopOther context.CancelFunc) {
	defer func() { t.panicked = recover() }()
	if t.err = do(ctx); t.err == nil && extra > 0 {
		t.timer = time.AfterFunc(extra, stopOther)
	}
}

// describeTimeout returns the error of a task. If runBoth canceled the task, the
// error says so.
func describeTimeout(ctx context.Context, err error, extra time.Duration) error {
	var op *OpError
	if ctx.Err() == nil || !errors.As(err, &op) || op.Code != "" {
		return err
	}
	late := *op
	late.Err = fmt.Errorf("no answer %v after the other source had answered", extra)
	return &late
}
