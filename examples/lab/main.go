// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

// The exit statuses. statusUsage is that of package flag.
const (
	statusOK    = 0
	statusFail  = 1 // a check failed, or the lab could not run
	statusUsage = 2
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	o, err := parseOptions(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	}
	ok := false
	switch {
	case o.Remove:
		ok, err = removeKept(os.Stdout)
	case isolate.Inside():
		ok, err = inside(o)
	default:
		ok, err = launch(o, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return statusFail
	}
	if !ok {
		return statusFail
	}
	return statusOK
}
