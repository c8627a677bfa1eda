// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// exampleTB is a test for the examples. It prints with what it fails.
type exampleTB struct {
	ctx      context.Context
	failed   bool
	cleanups []func()
}

func (e *exampleTB) Helper()                  {}
func (e *exampleTB) Cleanup(f func())         { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Context() context.Context { return e.ctx }
func (e *exampleTB) Failed() bool             { return e.failed }

func (e *exampleTB) Logf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (e *exampleTB) Errorf(format string, args ...any) {
	e.failed = true
	e.Logf(format, args...)
}

func (e *exampleTB) Fatalf(format string, args ...any) {
	e.Errorf(format, args...)
	panic(ended{})
}

// test runs f as a test.
func test(f func(t vpctest.TB)) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &exampleTB{ctx: ctx}
	defer func() {
		cancel()
		for _, c := range slices.Backward(e.cleanups) {
			c()
		}
	}()
	defer func() {
		if p := recover(); p != nil && p != (ended{}) {
			panic(p)
		}
	}()
	f(e)
}
