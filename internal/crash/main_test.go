// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/isolate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// asCrashEnv makes the test binary run as the program.
const asCrashEnv = "VPCNET_CRASH_TEST_AS_CRASH"

// TestMain builds the programs outside of the namespaces, where it has the module
// cache, and runs the tests in new namespaces.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asCrashEnv) != "":
		main()
	case !isolate.Inside() && isolate.Available() == nil && os.Getenv(programsEnv) == "":
		dir, err := os.MkdirTemp("", "vpcnet-crash-test-")
		if err == nil {
			err = build(context.Background(), dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "crash:", err)
			os.Exit(1)
		}
		// This process cleans up, because isolatetest.Test ends its own process.
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), programsEnv+"="+dir)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = cmd.Run()
		_ = os.RemoveAll(dir)
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	default:
		isolatetest.Test(m)
	}
}

// program returns the program as a command, with the environment of a process outside
// of the namespaces.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	isolatetest.Require(t)
	cmd := exec.Command("/proc/self/exe", append(args, "-programs="+os.Getenv(programsEnv))...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "VPCNET_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, asCrashEnv+"=1")
	return cmd
}

// TestProgram runs a few seconds in each layout, with kinds of faults that have never
// caused a violation.
func TestProgram(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			cmd := program(t, "-for=3s", "-batch=3s", "-json", "-layout="+layout, "-only=agent-kill,plugin-kill,plugin-stop,no-del,lost-answer")
			var progress strings.Builder
			cmd.Stderr = &progress
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s\n%s", err, progress.String(), out)
			}
			var r report
			d := json.NewDecoder(strings.NewReader(string(out)))
			d.DisallowUnknownFields()
			if err := d.Decode(&r); err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			adds, _ := r.outcomes("ADD")
			dels, refused := r.outcomes("DEL")
			// There are two batches because the check at the end counts as one.
			if r.Layout != layout || r.Batches != 2 || r.AgentKills == 0 || adds == 0 || dels == 0 || refused > 0 || r.Answers == 0 {
				t.Errorf("report %s, want 2 batches with killed agents, ADDs, DELs, answers and no refused DEL", out)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	cmd := program(t, "-for=5m", "-batch=1s", "-only=agent-kill")
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := progress.Read(first); err != nil { // the first output comes from inside the namespaces
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(progress) // ends when the last process has ended
	if err := cmd.Wait(); err == nil {
		t.Error("status 0 after an interrupt")
	}
	if strings.Contains(string(rest), "VIOLATION") {
		t.Errorf("violations after an interrupt:\n%s", rest)
	}
	dirs, err := os.ReadDir("/run")
	if err != nil || len(dirs) != 1 {
		t.Errorf("/run has %v, %v, want nothing new", dirs, err)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{
		{"-layout=round"}, {"-for=0s"}, {"-batch=-1s"}, {"-workers=0"}, {"-workers=9"}, {"-only=no-kind"}, {"-skip=agent-kill,x"},
		{"-only=clock"}, {"-clock"}, {"more"}, {"-unknown"},
	} {
		t.Setenv(vmEnv, "")
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("parse(%v) succeeds, want an error", args)
		}
	}
	t.Setenv(vmEnv, "1")
	o, err := parse([]string{"-clock", "-only=clock,agent-kill", "-skip=agent-kill"}, io.Discard)
	if err != nil || len(o.kinds) != 1 || o.kinds[0] != clockStep || o.duration != time.Minute {
		t.Errorf("parse = %+v, %v, want only the clock, for a minute", o, err)
	}
	o, err = parse(nil, io.Discard)
	if err != nil || len(o.kinds) != len(kinds())-1 {
		t.Errorf("parse = %+v, %v, want every kind except the clock", o, err)
	}
}

func TestEveryKindIsExplained(t *testing.T) {
	for _, k := range kinds() {
		if k.about() == "" {
			t.Errorf("%s has no description", k)
		}
	}
}
