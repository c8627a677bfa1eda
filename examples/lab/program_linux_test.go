// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// The tests in this file run the lab as users do: as a program that starts itself
// again in new namespaces, which are inside those of the test.

// program returns the lab as a command, with the programs already built.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	isolatetest.Require(t)
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The lab does not build programs that it finds in its own directory.
	if err := os.Link(exe, dir+"/lab"); err != nil {
		if err := copyProgram(exe, dir+"/lab"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range programs() {
		if err := copyProgram(os.Getenv(programsEnv)+"/"+name, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(dir+"/lab", append([]string{"-nodes=2", "-pods=1", "-instance-type=t3.small"}, args...)...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "VPCNET_") { // these variables mean that the process is inside a lab
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, asLabEnv+"=1", "TMPDIR="+dir)
	t.Cleanup(func() {
		if left, _ := os.ReadDir(dir); len(left) != 3 {
			t.Errorf("the lab left files in its temporary directory: %v", left)
		}
	})
	return cmd
}

func TestProgramJSON(t *testing.T) {
	cmd := program(t, "-json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, stderr.String(), out)
	}
	var r report
	d := json.NewDecoder(bytes.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(d.Buffered()); len(bytes.TrimSpace(rest)) > 0 {
		t.Errorf("more than one object on standard output: %s", rest)
	}
	if r.ElapsedSeconds <= 0 {
		t.Errorf("elapsedSeconds = %v, want more than 0", r.ElapsedSeconds)
	}
	nothingLeft(t)
}

// startUntil starts cmd and waits for a line of its output that matches pattern.
func startUntil(t *testing.T, cmd *exec.Cmd, pattern string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan bool)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if ok, _ := regexp.MatchString(pattern, lines.Text()); ok {
				close(found)
				break
			}
		}
		_, _ = io.Copy(io.Discard, out) // keeps reading until the lab ends
	}()
	select {
	case <-found:
	case <-time.After(time.Minute):
		t.Fatalf("the lab did not print %q", pattern)
	}
}

// TestInterrupt ends the lab during the walk with different signals.
func TestInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := program(t)
			startUntil(t, cmd, "Inside a pod")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Errorf("the lab ended with %v, want a failure", err)
			}
			waitForNothing(t)
		})
	}
}

// waitForNothing waits until the processes of a lab that was killed have ended.
func waitForNothing(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stopTimeout)
	defer cancel()
	_ = poll(ctx, func() (bool, error) { return len(agents()) == 0, nil }) // nothingLeft reports an error
	nothingLeft(t)
}

// TestKeep keeps a lab running, enters a node and a pod by the printed commands, and
// removes the lab.
func TestKeep(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter (util-linux)")
	}
	cmd := program(t, "-keep")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	remove := exec.Command(cmd.Path, "-rm")
	remove.Env = cmd.Env
	defer func() {
		got, err := remove.Output()
		if err != nil || !strings.HasPrefix(string(got), "removed the lab of process ") {
			t.Errorf("lab -rm: %v, %q", err, got)
		}
		waitForNothing(t)
	}()
	for place, want := range map[string]string{"node-1": "ens5", "pod-1-1": "eth0"} {
		line := regexp.MustCompile(`(?m)^ +` + place + ` +(nsenter .*) sh$`).FindSubmatch(out)
		if line == nil {
			t.Errorf("the output has no command to enter %s:\n%s", place, out)
			continue
		}
		got, err := exec.Command("sh", "-c", string(line[1])+" cat /proc/net/dev").CombinedOutput()
		if err != nil || !strings.Contains(string(got), want+":") {
			t.Errorf("%s: %v, want a link %s:\n%s", line[1], err, want, got)
		}
	}
}

func TestRemoveNothing(t *testing.T) {
	cmd := program(t, "-rm")
	out, err := cmd.Output()
	if err != nil || string(out) != "no lab is running\n" {
		t.Errorf("lab -rm: %v, %q, want that no lab is running", err, out)
	}
}
