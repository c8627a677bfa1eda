// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package isolate

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

// Inside reports whether the process runs in namespaces of its own.
func Inside() bool { return false }

// Available says that namespaces need Linux.
func Available() error {
	return fmt.Errorf("network namespaces need Linux, this is %s: use a Linux machine or virtual machine: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Command returns [Available]'s error.
func Command(...string) (*exec.Cmd, error) { return nil, Available() }

// Run runs cmd.
func Run(cmd *exec.Cmd) error { return cmd.Run() }

// Init returns [Available]'s error.
func Init() error { return Available() }
