// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outlive makes cmd survive the end of this process and the signals of the
// terminal.
func outlive(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, keptEnv)
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.SysProcAttr.Setsid = true
}

// detach replaces standard input, output and error by /dev/null, so that a reader of
// the lab's output sees its end.
func detach() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// removeKept ends the labs of this user that -keep left running. The kernel
// removes everything in their namespaces.
func removeKept(out io.Writer) (bool, error) {
	pids, err := keptLabs()
	if err != nil {
		return false, err
	}
	if len(pids) == 0 {
		fmt.Fprintln(out, "no lab is running")
	}
	for _, pid := range pids {
		if err := killAndWait(pid); err != nil {
			return false, fmt.Errorf("remove the lab of process %d: %w", pid, err)
		}
		fmt.Fprintf(out, "removed the lab of process %d\n", pid)
	}
	return true, nil
}

// keptLabs returns the process IDs of the second processes of kept labs, which it
// finds by their environment. Other processes of a lab have the same environment,
// but are not the first of their PID namespace.
func keptLabs() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
			continue // the process has ended or belongs to another user
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !slices.Contains(bytesToStrings(bytes.Split(environ, []byte{0})), keptEnv) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && firstOfNamespace(dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func bytesToStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// firstOfNamespace reports whether a process has PID 1 in a PID namespace directly
// below this one.
func firstOfNamespace(dir string) bool {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			numbers := bytes.Fields(rest)
			return len(numbers) == 2 && string(numbers[1]) == "1"
		}
	}
	return false
}

// killAndWait kills a process and waits until it has ended.
func killAndWait(pid int) error {
	// A descriptor refers to this process even if its PID is used again.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(stopTimeout/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return fmt.Errorf("it did not end within %v", stopTimeout)
		}
		return err
	}
}
