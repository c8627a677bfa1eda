// SPDX-License-Identifier: Apache-2.0

// Package isolatetest runs the tests of a package in new namespaces, with package
// isolate. It is a package of its own so that programs that use package isolate do
// not link package testing.
package isolatetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

// Test runs the tests of m in new namespaces and exits. If the system does not
// permit new namespaces it runs the tests in the current ones, and [Require] skips
// the tests that need new ones.
func Test(m *testing.M) {
	if isolate.Inside() {
		// Fuzzing workers share the namespaces of the process that started them.
		// Only that process, the first in its PID namespace, prepares them.
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

// Require skips t and logs the reason unless [Test] runs the tests in new
// namespaces.
func Require(t testing.TB) {
	t.Helper()
	if isolate.Inside() {
		return
	}
	err := isolate.Available()
	if err == nil {
		t.Fatal("isolatetest: TestMain of this package must call isolatetest.Test")
	}
	t.Skipf("needs new namespaces: %v", err)
}
