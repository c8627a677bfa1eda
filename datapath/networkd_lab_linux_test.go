// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"github.com/vpcnet/vpcnet/datapath/preflight"
	"golang.org/x/sys/unix"
)

// networkd is the real systemd-networkd in a network namespace, with its own /run,
// /etc/systemd and /sys. A thread holds these namespaces.
type networkd struct {
	t       testing.TB
	program string
	dir     string            // has the configuration below etc, and the logs
	do      chan func() error // functions that the thread runs
	done    chan error        // their results
	cmd     *exec.Cmd
	starts  int
}

// asDHCP is the configuration of EC2 instances in the images of distributions, which is
// the same for all ENIs. The VPC has no DHCP server, so the primary ENI gets the values
// that a server would send.
var asDHCP = []preflight.File{
	{Path: "etc/systemd/network/10-ens5.network", Text: "[Match]\nName=ens5\n[Network]\nAddress=10.0.0.10/24\nGateway=10.0.0.1\nIPv6AcceptRA=no\n"},
	{Path: "etc/systemd/network/80-ec2.network", Text: "[Match]\nName=ens*\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\n"},
}

// asDHCPOnBoth is asDHCP with the values of a DHCP server for the pod's ENI, too.
var asDHCPOnBoth = append([]preflight.File{{
	Path: "etc/systemd/network/10-ens6.network",
	Text: "[Match]\nName=ens6\n[Network]\nAddress=10.0.0.20/24\nIPv6AcceptRA=no\n[Route]\nGateway=10.0.0.1\nMetric=1024\n",
}}, asDHCP...)

// newNetworkd prepares systemd-networkd in the namespace of the lab's node. The caller
// starts it.
func newNetworkd(t testing.TB, l *lab, files []preflight.File) *networkd {
	t.Helper()
	n := &networkd{t: t, dir: t.TempDir(), do: make(chan func() error), done: make(chan error)}
	for _, p := range []string{"/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"} {
		if _, err := os.Stat(p); err == nil {
			n.program = p
		}
	}
	if n.program == "" {
		t.Skip("needs systemd-networkd: apt-get install systemd")
	}
	if _, err := preflight.Write(n.dir, files); err != nil {
		t.Fatal(err)
	}
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		for f := range n.do {
			n.done <- f()
		}
	}()
	t.Cleanup(func() { close(n.do) })
	n.inside(func() error { return n.enter(l.node) })
	t.Cleanup(n.stop)
	return n
}

// inside runs f on the thread. An error ends the test.
func (n *networkd) inside(f func() error) {
	n.t.Helper()
	n.do <- f
	if err := <-n.done; err != nil {
		n.t.Fatal(err)
	}
}

// enter moves the thread into the network namespace and mounts the directories that
// networkd needs. It gives user 0 the name systemd-network, because the user namespace of
// an ordinary user has no other user. networkd keeps the same capabilities as under any
// other user.
func (n *networkd) enter(node string) error {
	ns, err := netns.GetFromPath(node)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	for name, line := range map[string]string{"passwd": "systemd-network:x:0:0::/:/bin/false\n", "group": "systemd-network:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(line), 0o600); err != nil {
			return err
		}
		if err := unix.Mount(filepath.Join(n.dir, name), "/etc/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /etc/%s: %w", name, err)
		}
	}
	if err := unix.Mount(filepath.Join(n.dir, "etc/systemd"), "/etc/systemd", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/systemd: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// If /sys is read-only, networkd does not wait for udev. Some containers do not
	// permit a sysfs; an empty directory has the same effect.
	err = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY, "")
	if err != nil {
		err = unix.Mount("tmpfs", "/sys", "tmpfs", unix.MS_RDONLY, "")
	}
	return errors.Join(err, os.MkdirAll("/run/systemd/netif", 0o755))
}

func (n *networkd) logFile() string { return filepath.Join(n.dir, fmt.Sprintf("log%d", n.starts)) }

// start starts networkd and waits until it has enumerated all links.
func (n *networkd) start() {
	n.t.Helper()
	n.starts++
	log, err := os.Create(n.logFile())
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.inside(func() error {
		n.cmd = exec.Command(n.program)
		n.cmd.Env = []string{"SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console", "PATH=/usr/bin:/bin"}
		n.cmd.Stdout, n.cmd.Stderr = log, log
		return n.cmd.Start()
	})
	n.waitLog("Enumeration completed")
}

// stop ends networkd as systemd does. It has no effect if networkd does not run.
func (n *networkd) stop() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	killer := time.AfterFunc(10*time.Second, func() { _ = n.cmd.Process.Kill() })
	err := n.cmd.Wait()
	killer.Stop()
	if err != nil {
		n.t.Errorf("networkd ended with %v:\n%s", err, n.log())
	}
	n.cmd = nil
}

func (n *networkd) log() string {
	b, err := os.ReadFile(n.logFile())
	if err != nil {
		n.t.Error(err)
	}
	return string(b)
}

// waitLog waits until the log contains all texts.
func (n *networkd) waitLog(texts ...string) {
	n.t.Helper()
	if !eventually(func() bool { return contains(n.log(), texts...) }) {
		n.t.Fatalf("networkd did not log %q:\n%s", texts, n.log())
	}
}

// waitQuiet waits until networkd has logged nothing for half a second. It logs all of its
// actions.
func (n *networkd) waitQuiet() {
	const quietTime = 500 * time.Millisecond
	size, since := 0, time.Now()
	eventually(func() bool {
		if now := len(n.log()); now != size {
			size, since = now, time.Now()
		}
		return time.Since(since) > quietTime
	})
}

// eventually calls f until it returns true, for ten seconds at most, and returns the last
// result.
func eventually(f func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if f() {
			return true
		}
	}
	return false
}
