// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

var long = flag.Bool("long", false, "let firewalls make their rules instead of loading recorded ones")

func TestMain(m *testing.M) {
	if file := os.Getenv(boundEnv); file != "" {
		if err := boundMain(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(withoutNftablesEnv) != "" {
		fmt.Fprintln(os.Stderr, withoutNftablesMain(os.Args[1:]))
		os.Exit(1)
	}
	Main(m, "vpcctl", "ownagent", "egress-cni", "bandwidth", "cnitool", "portmap", "tuning")
}
