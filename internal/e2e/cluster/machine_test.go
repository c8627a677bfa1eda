// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

//go:embed machine.sh
var machineScript string

// machine is a node of the VPC with mounts of its own, so that daemons run in it with the
// paths that they have on a real machine.
type machine struct {
	*vpctest.Node
	// t is the test that ends the daemons. They outlive the subtest that starts them.
	t *testing.T
	// dir is a directory of the machine, the same inside and outside of its mounts.
	dir string
	// cgroup is the parent of the cgroups of its pods, in each hierarchy.
	cgroup string
	// holder holds the mounts.
	holder  *vpctest.Process
	daemons map[string]*vpctest.Process
}

// newMachine makes the mounts of a node.
func newMachine(t *testing.T, node *vpctest.Node) *machine {
	t.Helper()
	m := &machine{Node: node, t: t, dir: t.TempDir(), cgroup: filepath.Join(cgroupOfRun(), node.Name()), daemons: map[string]*vpctest.Process{}}
	t.Cleanup(func() { m.removeCgroups(t) })
	m.holder = node.Start(t, exec.Command("unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", machineScript, "sh", m.dir, node.Name(), m.cgroup))
	t.Cleanup(func() { m.killAll(t) })
	eventually(t, func() error {
		select {
		case <-m.holder.Done():
			t.Fatalf("mounts of %s: %v\n%s", node.Name(), m.holder.Err(), m.holder.Output())
		default:
		}
		_, err := os.Stat(m.file("mounted"))
		return err
	})
	return m
}

// file returns the path of a file in the directory of the machine.
func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

// inside returns a path in the mounts of the machine as processes outside of them see it.
func (m *machine) inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.holder.PID()), "root", path)
}

// command returns a command in the namespaces of the machine.
func (m *machine) command(program string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.holder.PID()), "--net", "--mount", "--uts", "--", program}, args...)...)
}

// run runs a program in the machine and returns what it prints.
func (m *machine) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := m.command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s %s: %v\n%s", m.Name(), filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts a daemon in the machine, with further variables. Its output goes to a file, the
// end of which is logged if the test fails.
func (m *machine) start(t *testing.T, name string, env []string, program string, args ...string) {
	t.Helper()
	log, err := os.OpenFile(m.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := m.command(program, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = log, log
	_, again := m.daemons[name]
	m.daemons[name] = m.Start(m.t, cmd)
	if again {
		return
	}
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("the end of the log of %s on %s:\n%s", name, m.Name(), m.logEnd(name))
		}
	})
}

func (m *machine) logFile(name string) string { return m.file(name + ".log") }

// logEnd returns the last lines of the log of a daemon.
func (m *machine) logEnd(name string) string {
	b, err := os.ReadFile(m.logFile(name))
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "")
}

// kill ends a daemon by SIGKILL.
func (m *machine) kill(t *testing.T, name string) {
	t.Helper()
	p := m.daemons[name]
	p.Signal(t, syscall.SIGKILL)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatalf("%s on %s does not end", name, m.Name())
	}
}

// resident returns the memory in MB of the process of a program in the network namespace of the
// machine, in a container or not. If there are several, it is that of the greatest.
func (m *machine) resident(t *testing.T, program string) (mb int) {
	t.Helper()
	for _, pid := range m.processes(t, program) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // "" once the process has ended
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "VmRSS:" {
				kB, err := strconv.Atoi(f[1])
				if err != nil {
					t.Fatal(err)
				}
				mb = max(mb, kB/1024)
			}
		}
	}
	return mb
}

// processes returns the processes of a program in the network namespace of the machine.
func (m *machine) processes(t *testing.T, program string) (all []int) {
	t.Helper()
	network := func(pid int) string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)) // "" once the process has ended
		return link
	}
	own := network(m.holder.PID())
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range comms {
		name, _ := os.ReadFile(file)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && strings.TrimSpace(string(name)) == program && network(pid) == own {
			all = append(all, pid)
		}
	}
	return all
}

// killAll ends all processes in the mounts of the machine, such as the shims of containers,
// which outlive their runtime.
func (m *machine) killAll(t *testing.T) {
	mounts := func(pid int) string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)) // "" once the process has ended
		return link
	}
	own := mounts(m.holder.PID())
	if own == "" {
		return
	}
	eventually(t, func() error {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		var left []int
		for _, p := range procs {
			pid, err := strconv.Atoi(p.Name())
			if err != nil || pid == m.holder.PID() || mounts(pid) != own {
				continue
			}
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			left = append(left, pid)
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v of %s run", left, m.Name())
		}
		return nil
	})
}

// removeCgroups ends the processes in the cgroups of the machine's pods, and removes these, and
// with those of the last machine that of the run.
func (m *machine) removeCgroups(t *testing.T) {
	eventually(t, func() error { return removeCgroup(m.cgroup) })
	tops, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupOfRun()))
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		_ = os.Remove(top) // fails as long as it has that of another machine
	}
}

// cgroupRoot is where the hierarchies of cgroups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// removeCgroup ends the processes in a cgroup and those below it, in each hierarchy, and
// removes them. It returns an error as long as there are any.
func removeCgroup(name string) error {
	tops, err := filepath.Glob(filepath.Join(cgroupRoot, "*", name))
	if err != nil {
		return err
	}
	for _, top := range tops {
		var dirs []string
		walk := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist): // a runtime removes it at the same time
				return nil
			case err == nil && e.IsDir():
				dirs = append(dirs, path)
			}
			return err
		})
		err = errors.Join(err, walk)
		for _, dir := range slices.Backward(dirs) { // the innermost ones first
			procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // it may be gone
			for _, pid := range strings.Fields(string(procs)) {
				// Processes outside of this PID namespace have the number 0 in it.
				if n, err := strconv.Atoi(pid); err == nil && n > 1 {
					_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
				}
			}
			if e := os.Remove(dir); !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// patience is how long the tests wait for what is to happen.
const patience = 4 * time.Minute

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patience, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
