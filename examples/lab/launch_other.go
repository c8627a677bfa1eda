// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"io"
	"os/exec"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

func outlive(*exec.Cmd) {}

func detach() error { return isolate.Available() }

func removeKept(io.Writer) (bool, error) { return false, isolate.Available() }
