// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// binary builds the plugin once, as it is released. It writes it to /run, which
// ends with the namespaces of the test.
var binary = sync.OnceValues(func() (string, error) {
	path := "/run/bin/vpc-cni"
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "../examples/vpc-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// node is the network namespace of the test, with an agent and the plugin.
type node struct {
	t     testing.TB
	dir   string
	agent *servertest.Agent
	// backend answers calls: the agent, or a wrapper of it.
	backend server.Backend
	plugin  string
	stop    func()
	// sweeps are the sweeps that the agent has promised.
	sweeps sync.WaitGroup
	// noSweep means that the agent leaves the deletion of links to the plugin.
	noSweep bool
	// hold delays the sweeps until it is closed. Nil means that they are not delayed.
	hold chan struct{}
}

// ofLayout configures an agent with addresses of both families on a secondary ENI,
// for which the per-pod layout makes all of its rules.
func ofLayout(layout string) servertest.Config {
	return servertest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("2001:db8::/80")},
		ENI:      "eni-0a", Device: 1, Layout: datapath.Layout(layout), MTU: 9001, HostLinkPrefix: "eni",
	}
}

// newNode starts an agent. At the end of the test, the state of the node must be
// what it was at the start.
func newNode(t testing.TB, cfg servertest.Config) *node {
	t.Helper()
	isolatetest.Require(t)
	plugin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	const dir = "/run/vpcnet" // fixed, because golden files contain it
	agent := servertest.New(cfg)
	n := &node{t: t, dir: dir, agent: agent, backend: agent, plugin: plugin}
	before := n.state()
	t.Cleanup(func() {
		if n.stop != nil {
			n.stop()
		}
		if !t.Failed() {
			if diff := cmp.Diff(before, n.state()); diff != "" {
				t.Errorf("left behind: -before +after:\n%s", diff)
			}
		}
		os.RemoveAll(dir)
	})
	n.start()
	return n
}

func (n *node) socket() string { return filepath.Join(n.dir, "agent.sock") }

func (n *node) stateDir() string { return filepath.Join(n.dir, "state") }

// start starts the agent, and sets n.stop to a function that stops it.
func (n *node) start() {
	n.t.Helper()
	l, err := server.Listen(n.socket())
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	done := make(chan error, 1)
	srv := &server.Server{Backend: n.backend, SweepSoon: func() { n.sweeps.Go(n.sweep) }}
	if n.noSweep {
		srv.SweepSoon = nil
	}
	go func() { done <- srv.Serve(ctx, l) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Serve: %v", err)
		}
		n.stop = nil
	}
}

// sweep deletes retired links.
func (n *node) sweep() {
	if n.hold != nil {
		<-n.hold
	}
	h, err := datapath.Open("")
	if err == nil {
		err = errors.Join(h.Sweep(context.Background()), h.Close())
	}
	if err != nil {
		n.t.Error("sweep:", err)
	}
}

// collect collects tombstones, as an agent does when it starts.
func (n *node) collect() int {
	n.t.Helper()
	count, err := server.CollectTombstones(n.t.Context(), cniplugin.TombstoneDir(n.stateDir()),
		func(ctx context.Context, s cniplugin.Tombstone) error {
			_, err := n.agent.Del(ctx, cniplugin.DelRequest{Attachment: s.Attachment})
			return err
		})
	if err != nil {
		n.t.Error(err)
	}
	return count
}

// conf returns a network configuration for this node, with further fields.
func (n *node) conf(version string, fields ...string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"vpcnet","type":"vpc-cni","agentSocket":%q,"stateDir":%q%s}`,
		version, n.socket(), n.stateDir(), strings.Join(append([]string{""}, fields...), ","))
}

// invocation is one call of the plugin binary.
type invocation struct {
	command, id, netns, ifName, args, stdin string
}

func (n *node) cmd(ctx context.Context, i invocation) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.plugin)
	cmd.Env = []string{
		"CNI_COMMAND=" + i.command, "CNI_CONTAINERID=" + i.id, "CNI_NETNS=" + i.netns,
		"CNI_IFNAME=" + i.ifName, "CNI_ARGS=" + i.args,
	}
	cmd.Stdin = strings.NewReader(i.stdin)
	return cmd
}

// run executes the plugin and returns its standard output and exit status.
func (n *node) run(i invocation) (stdout []byte, status int) {
	n.t.Helper()
	cmd := n.cmd(n.t.Context(), i)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	if stderr.Len() > 0 {
		n.t.Logf("%s %s: %s", i.command, i.id, stderr.Bytes())
	}
	return out, cmd.ProcessState.ExitCode()
}

// must executes an invocation that must succeed, and returns its standard output.
func (n *node) must(i invocation) []byte {
	n.t.Helper()
	out, status := n.run(i)
	if status != 0 {
		n.t.Fatalf("%s %s: exit status %d: %s", i.command, i.id, status, out)
	}
	return out
}

// add returns the ADD of a pod in the sandbox id, see newSandbox.
func (n *node) add(id string) invocation {
	return invocation{"ADD", id, sandboxPath(id), "eth0", "", n.conf("1.0.0")}
}

// del returns the DEL of a pod in the sandbox id, see newSandbox.
func (n *node) del(id string) invocation {
	return invocation{"DEL", id, sandboxPath(id), "eth0", "", n.conf("1.0.0")}
}

func sandboxPath(name string) string { return "/run/netns/" + name }

// newSandbox creates a named network namespace, as a runtime does, and removes it
// at the end of the test.
func newSandbox(t testing.TB, name string) string {
	t.Helper()
	path := sandboxPath(name)
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		errs <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-errs; err != nil {
		t.Fatalf("sandbox %s: %v", name, err)
	}
	t.Cleanup(func() { removeSandbox(t, name) })
	return path
}

// removeSandbox removes a sandbox. It may be called again.
func removeSandbox(t testing.TB, name string) {
	t.Helper()
	path := sandboxPath(name)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return
	}
	if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
		t.Error(err)
	}
}

// state describes everything that a pod can leave on the node: links, routes of all
// tables, rules, neighbours, allocated addresses, and tombstones. It waits for the
// agent's sweeps.
func (n *node) state() string {
	n.t.Helper()
	n.sweeps.Wait()
	lines, err := kernelState()
	if err != nil {
		n.t.Fatal(err)
	}
	for a, addrs := range n.agent.Held() {
		lines = append(lines, fmt.Sprintf("held %s %v", a, addrs))
	}
	stones, err := filepath.Glob(cniplugin.TombstoneDir(n.stateDir()) + "/*.json*")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range stones {
		lines = append(lines, "tombstone "+filepath.Base(s))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func kernelState() (lines []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		lines = append(lines, "link "+l.Attrs().Name)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route %d %v", family, r))
		}
		rules, err := netlink.RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %v", family, r))
		}
		neighs, err := netlink.NeighList(0, family)
		if err != nil {
			return nil, err
		}
		for _, r := range neighs {
			if r.State&netlink.NUD_PERMANENT != 0 {
				r.Confirmed, r.Used, r.Updated = 0, 0, 0 // ages in clock ticks, which differ each time
				lines = append(lines, fmt.Sprintf("neigh %d %v", family, r))
			}
		}
	}
	return lines, nil
}

// flushRoutes deletes the IPv4 routes of a sandbox.
func flushRoutes(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	routes, err := h.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		err = errors.Join(err, h.RouteDel(&r))
	}
	return err
}

// inSandbox calls f with a netlink handle of the sandbox at path.
func inSandbox(t testing.TB, path string, f func(*netlink.Handle) error) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := f(h); err != nil {
		t.Fatal(err)
	}
}

// sandboxLink returns the attributes of a link in a sandbox.
func sandboxLink(t testing.TB, path, name string) (attrs *netlink.LinkAttrs) {
	t.Helper()
	inSandbox(t, path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err == nil {
			attrs = link.Attrs()
		}
		return err
	})
	return attrs
}

// sandboxMAC returns the MAC of a link in a sandbox.
func sandboxMAC(t testing.TB, path, name string) string {
	t.Helper()
	return sandboxLink(t, path, name).HardwareAddr.String()
}
