// SPDX-License-Identifier: Apache-2.0

package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Main calls run, which runs the tests of a package, in new namespaces and returns the
// status for os.Exit. For that it starts this program again with the same arguments, and
// there it prepares the namespaces. If the system does not permit new namespaces it calls
// run in the current ones.
func Main(run func() int) (status int) {
	if Inside() {
		// Fuzzing workers share the namespaces of the process that started them.
		// Only that process, the first in its PID namespace, prepares them.
		if os.Getpid() == 1 {
			if err := Init(); err != nil {
				return failed(err)
			}
		}
		return run()
	}
	if Available() != nil {
		return run()
	}
	cmd, err := Command(os.Args[1:]...)
	if err != nil {
		return failed(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = Run(cmd)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case err != nil:
		return failed(err)
	}
	return 0
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "isolate:", err)
	return 1
}
