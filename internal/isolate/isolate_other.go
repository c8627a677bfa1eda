// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package isolate

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

// Inside returns false.
func Inside() bool { return false }

// Available returns an error that wraps [errors.ErrUnsupported].
func Available() error {
	return fmt.Errorf("network namespaces need Linux, this is %s: use a Linux machine or virtual machine: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Command returns the error of [Available].
func Command(...string) (*exec.Cmd, error) { return nil, Available() }

// Run runs cmd.
func Run(cmd *exec.Cmd) error { return cmd.Run() }

// Init returns the error of [Available].
func Init() error { return Available() }
