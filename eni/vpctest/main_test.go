// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// programsEnv has the directory of the programs that the test of the whole system runs.
const programsEnv = "VPCTEST_PROGRAMS"

// tests are the tests of the package. They run in the namespaces.
type tests struct{ m *testing.M }

// Run runs the tests, and removes the programs afterwards.
func (r tests) Run() int {
	if dir := os.Getenv(programsEnv); dir != "" {
		defer os.RemoveAll(dir)
	}
	return r.m.Run()
}

// TestMain builds the programs outside of the namespaces, where it has the module cache and
// the network.
func TestMain(m *testing.M) {
	if os.Getenv(programsEnv) == "" {
		if err := buildPrograms(); err != nil {
			fmt.Fprintln(os.Stderr, "vpctest:", err)
			os.Exit(1)
		}
	}
	vpctest.Main(tests{m})
}

func buildPrograms() error {
	dir, err := os.MkdirTemp("", "vpctest-programs-")
	if err != nil {
		return err
	}
	const examples = "github.com/vpcnet/vpcnet/examples/"
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+string(os.PathSeparator), examples+"ipamd", examples+"vpc-cni").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.Setenv(programsEnv, dir)
}
