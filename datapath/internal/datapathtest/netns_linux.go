// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"golang.org/x/sys/unix"
)

// AnswerTime is how long an answer from another namespace may take on a very busy
// machine.
const AnswerTime = 300 * time.Millisecond

const netnsDir = "/run/netns"

var netnsCount atomic.Int64

// NewNetns creates a network namespace with lo up, which the end of the test deletes,
// and returns its path.
func NewNetns(t testing.TB) string {
	t.Helper()
	ns, err := fabric.CreateNetns(filepath.Join(netnsDir, fmt.Sprintf("t%d", netnsCount.Add(1))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { DeleteNetns(t, ns.Path()) })
	// An open handle would keep the namespace after its deletion.
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	return ns.Path()
}

// DeleteNetns deletes the namespace at path. It has no effect if path does not exist.
func DeleteNetns(t testing.TB, path string) {
	t.Helper()
	ns, err := fabric.OpenNetns(path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = ns.Delete()
	}
	if err != nil {
		t.Error(err)
	}
}

// Try runs f in the namespace at path.
func Try(path string, f func() error) error {
	ns, err := fabric.OpenNetns(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(f)
}

// On runs f in the namespace at path. An error ends the test.
func On(t testing.TB, path string, f func() error) {
	t.Helper()
	if err := Try(path, f); err != nil {
		t.Fatalf("in %s: %v", path, err)
	}
}

// In runs f with a route netlink handle of the namespace at path. An error ends the
// test.
func In(t testing.TB, path string, f func(*netlink.Handle) error) {
	t.Helper()
	On(t, path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// AddAddr adds an address, in the notation of netip.Prefix, to a link. It has no
// effect if the link has the address.
func AddAddr(h *netlink.Handle, link netlink.Link, prefix string) error {
	ipnet, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipnet}
	if ipnet.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return h.AddrReplace(link, a)
}

// SetSysctl writes a file below /proc/sys in the namespace of the calling thread.
func SetSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+key, []byte(value), 0)
}

// Echo starts an echo server of package fabric at an address of the namespace at path.
// The end of the test stops it.
func Echo(t testing.TB, path string, a netip.Addr) {
	t.Helper()
	ns, err := fabric.OpenNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	stop, err := ns.Echo(t.Context(), netip.AddrPortFrom(a, fabric.EchoPort))
	if err != nil {
		t.Fatalf("echo server at %s in %s: %v", a, path, err)
	}
	t.Cleanup(stop)
}

// Ask sends UDP packets from the namespace at path to an echo server, until an answer
// comes or the time is over. It returns the source address that the server saw. If
// from is the zero Addr, the kernel chooses the source.
func Ask(path string, from, to netip.Addr, within time.Duration) (netip.Addr, error) {
	ns, err := fabric.OpenNetns(path)
	if err != nil {
		return netip.Addr{}, err
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeoutCause(context.Background(), within, fmt.Errorf("waited %v: %w", within, os.ErrDeadlineExceeded))
	defer cancel()
	var local netip.AddrPort
	if from.IsValid() {
		local = netip.AddrPortFrom(from, 0)
	}
	seen, err := ns.Ask(ctx, "udp", local, netip.AddrPortFrom(to, fabric.EchoPort))
	return seen.Addr(), err
}

// WaitAnswer calls Ask until it returns an answer, for ten seconds at most. The test
// fails if there is none.
func WaitAnswer(t testing.TB, path string, from, to netip.Addr) {
	t.Helper()
	const most = 10 * time.Second
	var err error
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err = Ask(path, from, to, AnswerTime); err == nil {
			return
		}
	}
	t.Fatal(errors.Join(fmt.Errorf("no answer to %s from %s within %v", from, to, most), err))
}

// ShellSysctl is a shell function that replaces sysctl(8), which some systems lack. It
// understands only the option -w.
const ShellSysctl = `sysctl() { echo "${2#*=}" >/proc/sys/$(echo "${2%%=*}" | tr ./ /.); }
`

// Shell runs a shell script in the namespace at path, with further variables in its
// environment.
func Shell(t testing.TB, path, script string, vars ...string) {
	t.Helper()
	On(t, path, func() error {
		cmd := exec.Command("sh", "-ec", ShellSysctl+script)
		cmd.Env = append(cmd.Environ(), vars...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
