// SPDX-License-Identifier: Apache-2.0

// Command vpc-cni is a CNI plugin that gives a pod an address of the VPC. It
// asks the node's agent (see ../ipamd) for it and wires the pod; a runtime finds
// it by the type in a network configuration list. See package cniplugin.
package main

import (
	"context"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin"
)

func main() {
	debug.SetGCPercent(-1) // the process ends before it would pay to collect
	os.Exit(cniplugin.Plugin{Version: version()}.Main(context.Background(), cniplugin.Invocation{
		Getenv: os.Getenv,
		Stdin:  stdin(),
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}))
}

// stdin is empty when a person calls the plugin at a terminal, where reading
// would wait for ever.
func stdin() io.Reader {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return strings.NewReader("")
	}
	return os.Stdin
}

// version is that of the module, as `go install ...@version` records it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return info.Main.Version
}
