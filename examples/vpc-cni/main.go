// SPDX-License-Identifier: Apache-2.0

// Command vpc-cni is a CNI plugin that gives a pod an address of the VPC. It asks
// the node's agent (see ../ipamd) for the address and wires the pod. A runtime
// finds the plugin by the type in a network configuration list. See package
// cniplugin.
//
// Build it with CGO_ENABLED=0: a static binary starts half a millisecond faster,
// and runs on nodes with any C library.
package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin"
)

func main() {
	// The process works sequentially and ends before garbage collection would be
	// worth its cost. Without these two lines, fifty ADDs at once take half as long
	// again, because of threads that only wake each other.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	os.Exit(cniplugin.Plugin{Version: version()}.Main(context.Background(), cniplugin.Invocation{
		Getenv: os.Getenv,
		Stdin:  stdin(),
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}))
}

// stdin returns the standard input of the process. It is empty if that is a
// terminal, because reading from a terminal would block.
func stdin() io.Reader {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return strings.NewReader("")
	}
	return os.Stdin
}

// version returns the version of the module, as `go install ...@version` records
// it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return info.Main.Version
}
