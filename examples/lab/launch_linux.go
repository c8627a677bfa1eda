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

// outlive lets cmd live on when this process has ended, and keeps the
// terminal's signals from it.
func outlive(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, keptEnv)
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.SysProcAttr.Setsid = true
}

// detach lets go of standard input and output, so that whoever reads the lab's
// output sees its end.
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
// removes what was in their namespaces.
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

// keptLabs finds the first processes of kept labs by their environment. What
// they started has the same environment, but is not the first of its PID
// namespace.
func keptLabs() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
			continue // gone, or another user's
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

// firstOfNamespace reports whether a process is number 1 of a PID namespace
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

// killAndWait ends a process for certain.
func killAndWait(pid int) error {
	// A descriptor means this process even if its number is used again.
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
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return errors.New("it did not end")
		}
		return err
	}
}
