// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

const modulePath = "github.com/vpcnet/vpcnet"

// programsEnv has the directory of the programs, for the process in the namespaces.
const programsEnv = "VPCNET_CRASH_PROGRAMS"

// The exit statuses. statusUsage is that of package flag.
const (
	statusOK    = 0
	statusFail  = 1
	statusUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// start runs the program in new namespaces.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	case isolate.Inside():
		return inside(ctx, o, stdout, stderr)
	}
	status, err := launch(ctx, o, args, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "crash:", err)
	}
	return status
}

// launch builds the programs, which needs the module cache, and starts this program
// again in new namespaces. The kernel removes everything in them when that process
// ends. A signal reaches both processes, and the second one cleans up.
func launch(ctx context.Context, o options, args []string, stdout, stderr io.Writer) (int, error) {
	if o.programs == "" {
		dir, err := os.MkdirTemp("", "vpcnet-crash-")
		if err != nil {
			return statusFail, err
		}
		defer os.RemoveAll(dir)
		if err := build(ctx, dir); err != nil {
			return statusFail, err
		}
		o.programs = dir
	}
	cmd, err := isolate.Command(args...)
	if err != nil {
		return statusFail, err
	}
	cmd.Env = append(cmd.Env, programsEnv+"="+o.programs)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	err = isolate.Run(cmd)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return statusFail, err
	}
	return statusOK, nil
}

// build compiles the programs into dir.
func build(ctx context.Context, dir string) error {
	args := []string{"build", "-ldflags=-s -w", "-o", dir + string(filepath.Separator), modulePath + "/examples/ipamd", modulePath + "/examples/vpc-cni"}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v (run it inside a clone of the repository): %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return nil
}

// inside runs the loop and prints its report.
func inside(ctx context.Context, o options, stdout, stderr io.Writer) int {
	if err := isolate.Init(); err != nil {
		fmt.Fprintln(stderr, "crash:", err)
		return statusFail
	}
	if dir := os.Getenv(programsEnv); dir != "" {
		o.programs = dir
	}
	for o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	fmt.Fprintf(stderr, "crash: layout %s, seed %d, %v\n", o.layout, o.seed, o.duration)
	r, err := loop(ctx, o, stderr)
	if printErr := r.print(stdout, o.json); printErr != nil {
		err = errors.Join(err, printErr)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "crash:", err)
		return statusFail
	case len(r.Violations) > 0:
		return statusFail
	}
	return statusOK
}
