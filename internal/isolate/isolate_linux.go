// SPDX-License-Identifier: Apache-2.0

package isolate

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideEnv is the environment variable that Command sets for the new process.
const insideEnv = "VPCNET_ISOLATED"

// Inside reports whether this process, or an ancestor of it, was started by
// [Command].
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Available returns nil if [Command] will work. Otherwise it returns an error that
// names the reason and a remedy.
func Available() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"isolate-probe"}
	cmd.Env = []string{}
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Ptrace = true // the probe stops at exec and runs no code
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return refusal(err, os.Getuid(), setting)
	}
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	_ = cmd.Wait()
	return nil
}

// setting returns the value of a setting of the machine, "" if there is none.
func setting(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/")) // empty if it cannot be read
	return string(b)
}

func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// Command returns a command that runs this program again with args in new
// namespaces. The new process must call [Init] before anything else. The caller
// starts it with [Run], or from a goroutine that stays locked to its thread until
// the process ends.
func Command(args ...string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = attributes()
	return cmd, nil
}

// Run starts cmd and waits for it, on one locked thread: the kernel kills the
// process when the thread that started it ends.
func Run(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// Init prepares the new namespaces: it makes mounts private, mounts /proc for the
// new PID namespace, mounts an empty tmpfs with a directory netns at /run, and sets
// lo up.
func Init() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	return linkUp("lo")
}

func linkUp(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
