// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package steptest stops and kills a program between its system calls, for tests that a
// program which was killed leaves nothing behind.
package steptest

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// steps are the system calls by which a program changes the state of another part
// of the system or sends data to another process. SIGKILL takes effect
// between system calls. So it is enough to kill a process before each of its steps
// in turn.
var steps = map[uint64]string{
	unix.SYS_CONNECT: "connect", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_WRITE: "write",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_FSYNC: "fsync",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FLOCK: "flock", unix.SYS_SETNS: "setns", unix.SYS_WAITID: "waitid",
	unix.SYS_EXIT_GROUP: "exit_group",
}

// Step is a step of a program: a system call by which it changes the state of another part of
// the system or sends data to another process.
type Step struct {
	Number int
	Name   string
	// Locked means that the program holds a lock by flock.
	Locked bool
}

// Follow traces a process from its exec, at which it has stopped, to its end, and calls at
// before each of its steps, beginning with step 0. All threads of the process are stopped
// during the call. Follow kills the process when at returns false; then the status is -1.
// The caller started the process with Ptrace and Setpgid, on the thread that calls Follow.
func Follow(pid int, at func(Step) bool) (status int, err error) {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		return 0, os.NewSyscallError("wait4", err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return 0, os.NewSyscallError("ptrace", err)
	}
	next, thread, signal := Step{}, pid, 0
	for {
		// ESRCH means that the thread was killed with the others.
		if err := unix.PtraceSyscall(thread, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, os.NewSyscallError("ptrace", err)
		}
		signal = 0
		for {
			thread, err = unix.Wait4(-pid, &ws, unix.WALL, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return 0, os.NewSyscallError("wait4", err)
			}
			if ws.Stopped() {
				break
			}
			if thread == pid && ws.Signaled() {
				return -1, nil
			}
			if thread == pid {
				return ws.ExitStatus(), nil
			}
		}
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			nr, entry, err := enteredCall(thread)
			if err != nil {
				return 0, err
			}
			name, isStep := steps[nr]
			next.Locked = next.Locked && nr != unix.SYS_CLOSE
			if !entry || !isStep {
				continue
			}
			next.Name = name
			if !at(next) {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return 0, err
				}
			}
			next.Number++
			next.Locked = next.Locked || nr == unix.SYS_FLOCK
		case sig != unix.SIGTRAP && sig != unix.SIGSTOP: // ptrace itself sends these two
			signal = int(sig)
		}
	}
}

// enteredCall returns the system call at which a thread has stopped. entry is true
// at the entry of the call, and false at its exit.
//
// https://man7.org/linux/man-pages/man2/ptrace.2.html, PTRACE_GET_SYSCALL_INFO
func enteredCall(thread int) (nr uint64, entry bool, err error) {
	var info struct {
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [7]uint64
	}
	const opEntry = 1
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	switch {
	case errors.Is(errno, unix.ESRCH): // the thread was killed
		return 0, false, nil
	case errno != 0:
		return 0, false, fmt.Errorf("PTRACE_GET_SYSCALL_INFO: %w", errno)
	}
	return info.nr, info.op == opEntry, nil
}
