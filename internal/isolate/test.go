// SPDX-License-Identifier: Apache-2.0

package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Test runs the tests of m in namespaces of their own and ends the process. On
// a system that refuses them it runs the tests where they are, and [Require]
// skips those that need the kernel.
func Test(m *testing.M) {
	if Inside() {
		// Workers of the fuzzer share the namespaces of the process that started
		// them; only that one, the first in its PID namespace, prepares them.
		if os.Getpid() == 1 {
			if err := Init(); err != nil {
				fmt.Fprintln(os.Stderr, "isolate:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	if Available() != nil {
		os.Exit(m.Run())
	}
	cmd, err := Command(os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		os.Exit(1)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = Run(cmd)
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
	if Inside() {
		return
	}
	err := Available()
	if err == nil {
		t.Fatal("isolate: TestMain of this package does not call isolate.Test")
	}
	t.Skipf("needs namespaces of its own: %v", err)
}
