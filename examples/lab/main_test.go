// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// asLabEnv makes the test binary run as the lab, for tests of the whole program.
const asLabEnv = "VPCNET_LAB_TEST_AS_LAB"

// TestMain builds the lab's programs outside of the namespaces, where it has the
// module cache and the network, and runs the tests in new namespaces.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asLabEnv) != "":
		os.Exit(run(os.Args[1:]))
	case isolate.Inside():
		isolatetest.Test(m)
	case isolate.Available() != nil:
		os.Exit(m.Run())
	}
	status, err := testInside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	os.Exit(status)
}

func testInside() (int, error) {
	dir, err := os.MkdirTemp("", "vpcnet-lab-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := build(context.Background(), dir); err != nil {
		return 1, err
	}
	cmd, err := isolate.Command(os.Args[1:]...)
	if err != nil {
		return 1, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, programsEnv+"="+dir)
	err = isolate.Run(cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// small returns the options of the smallest lab that suffices for the walk.
func small(layout string) options {
	return options{Nodes: 2, Pods: 1, InstanceType: "t3.small", Layout: layout}
}

// testWorld builds a lab for a test.
func testWorld(t testing.TB, o options) *world {
	t.Helper()
	isolatetest.Require(t)
	w, err := newWorld(t.Context(), o, os.Getenv(programsEnv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// silent returns a walk through w that prints nothing.
func silent(w *world) *walk {
	return newWalk(w, &printer{out: io.Discard, status: io.Discard})
}
