// SPDX-License-Identifier: Apache-2.0

// Package isolatetest runs the tests of a package in namespaces of their own (package
// isolate). It is apart so that programs which use that package do not link package
// testing.
package isolatetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

// Test runs the tests of m in namespaces of their own and ends the process. On
// a system that refuses them it runs the tests where they are, and [Require]
// skips those that need the kernel.
func Test(m *testing.M) {
	if isolate.Inside() {
		// Workers of the fuzzer share the namespaces of the process that started
		// them; only that one, the first in its PID namespace, prepares them.
		if os.Getpid() == 1 {
			if err := isolate.Init(); err != nil {
				fmt.Fprintln(os.Stderr, "isolate:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	if isolate.Available() != nil {
		os.Exit(m.Run())
	}
	cmd, err := isolate.Command(os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		os.Exit(1)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = isolate.Run(cmd)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "isolate:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Require skips t, with the reason, unless the process runs in namespaces of
// its own.
func Require(t testing.TB) {
	t.Helper()
	if isolate.Inside() {
		return
	}
	err := isolate.Available()
	if err == nil {
		t.Fatal("isolatetest: TestMain of this package does not call isolatetest.Test")
	}
	t.Skipf("needs namespaces of its own: %v", err)
}
