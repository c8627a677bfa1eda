// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/isolate"
)

// TB is the part of testing.TB that this package uses, so that programs that use the
// package do not link package testing.
type TB interface {
	enitest.TB
	Failed() bool
	Logf(format string, args ...any)
}

// Main runs the tests of a package in new namespaces and exits. TestMain calls it with its
// *testing.M; a program calls it with a type of its own. It starts this program again with
// the same arguments and the same environment. If the system does not permit new
// namespaces, m runs in the current ones, and [New] and [Start] fail with a text that says
// what to do.
func Main(m interface{ Run() int }) { os.Exit(isolate.Main(m.Run)) }

// Available returns nil if the system permits the namespaces that a VPC needs. Otherwise the
// error names the reason and the remedy. Tests that should rather be skipped than fail call
// it before [New].
func Available() error {
	if isolate.Inside() {
		return nil
	}
	return isolate.Available()
}

// isolated returns an error unless the process runs in namespaces of its own.
func isolated() error {
	if err := Available(); err != nil || isolate.Inside() {
		return err
	}
	return errors.New("this process is not in namespaces of its own: call vpctest.Main from TestMain")
}

const (
	// patience is how long methods that wait for an answer wait for it.
	patience = 30 * time.Second
	// silence is how long methods that expect no answer wait for one.
	silence = 500 * time.Millisecond
)

// fatal ends the test if err is not nil.
func fatal(t TB, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// within returns a context that ends after d.
func within(t TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(t.Context(), d, fmt.Errorf("waited %v", d))
}
