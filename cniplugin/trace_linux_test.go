// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// steps are the system calls by which the plugin changes the state of another part
// of the system or sends data to the agent or the runtime. SIGKILL takes effect
// between system calls. So it is enough to kill a process before each of its steps
// in turn.
var steps = map[uint64]string{
	unix.SYS_CONNECT: "connect", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_WRITE: "write",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_FSYNC: "fsync",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FLOCK: "flock", unix.SYS_SETNS: "setns", unix.SYS_EXIT_GROUP: "exit_group",
}

// step is a step of a traced plugin.
type step struct {
	number int
	name   string
	// locked means that the plugin holds the lock of the node's rules, which other
	// plugins need to change rules of pods.
	locked bool
}

// traced is the outcome of a traced plugin.
type traced struct {
	stdout []byte
	status int // -1: killed
}

// trace executes the plugin and calls at before each of its steps, beginning with
// step 0. All threads of the plugin are stopped during the call. trace kills the
// plugin when at returns false.
func (n *node) trace(t *testing.T, i invocation, at func(step) bool) traced {
	t.Helper()
	dir := t.TempDir()
	type outcome struct {
		traced
		err error
	}
	ended := make(chan outcome)
	go func() {
		runtime.LockOSThread() // the tracer is a thread; it ends with the goroutine
		end, err := n.traceLocked(dir, i, at)
		ended <- outcome{end, err}
	}()
	o := <-ended
	if o.err != nil {
		t.Fatalf("trace %s %s: %v", i.command, i.id, o.err)
	}
	return o.traced
}

func (n *node) traceLocked(dir string, i invocation, at func(step) bool) (end traced, err error) {
	var files []*os.File
	for _, f := range []struct {
		name, content string
	}{{"stdin", i.stdin}, {"stdout", ""}, {"stderr", ""}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.content), 0o600); err != nil {
			return end, err
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return end, err
		}
		defer file.Close()
		files = append(files, file)
	}
	// The plugin gets its own process group, so that the tracer can wait for just the
	// threads of the plugin.
	p, err := os.StartProcess(n.plugin, []string{n.plugin}, &os.ProcAttr{
		Env: n.cmd(n.t.Context(), i).Env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return end, err
	}
	defer func() { _ = p.Release() }()
	end.status, err = follow(p.Pid, at)
	if err != nil {
		return end, errors.Join(err, p.Kill())
	}
	end.stdout, err = os.ReadFile(files[1].Name())
	return end, err
}

// follow traces a process from its exec, at which it has stopped, to its end.
func follow(pid int, at func(step) bool) (status int, err error) {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		return 0, os.NewSyscallError("wait4", err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return 0, os.NewSyscallError("ptrace", err)
	}
	next, thread, signal := step{}, pid, 0
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
			next.locked = next.locked && nr != unix.SYS_CLOSE
			if !entry || !isStep {
				continue
			}
			next.name = name
			if !at(next) {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return 0, err
				}
			}
			next.number++
			next.locked = next.locked || nr == unix.SYS_FLOCK
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
