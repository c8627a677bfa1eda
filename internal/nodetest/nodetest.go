// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package nodetest runs the programs of a node, ipamd and vpc-cni, on the nodes of package
// vpctest, and pods as a container runtime does. Its own tests are the tests of the whole
// system: they check by packets what the programs do together.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// programsEnv has the directory of the programs.
const programsEnv = "NODETEST_PROGRAMS"

// inVM reports whether the tests run in the emulated machine of internal/vm, which has the
// programs.
func inVM() bool { return os.Getenv("VPCNET_VM") != "" }

// tests are the tests of a package. They run in namespaces of their own.
type tests struct{ m *testing.M }

// Run runs the tests, and removes the programs afterwards.
func (r tests) Run() int {
	if dir := os.Getenv(programsEnv); dir != "" && !inVM() {
		defer os.RemoveAll(dir)
	}
	return r.m.Run()
}

// Main builds ipamd, vpc-cni and further programs of examples, and then runs the tests in
// namespaces of their own. It builds outside of these, where it has the module cache. The
// programs of containernetworking are those of the module in examples/plugins, and one that
// begins with "./" is the package in that directory of the caller's module.
func Main(m *testing.M, further ...string) {
	if os.Getenv(programsEnv) == "" {
		if err := build(append(further, "ipamd", "vpc-cni")); err != nil {
			fmt.Fprintln(os.Stderr, "nodetest:", err)
			os.Exit(1)
		}
	}
	vpctest.Main(tests{m})
}

func build(programs []string) error {
	dir, err := os.MkdirTemp("", "nodetest-programs-")
	if err != nil {
		return err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	top := strings.TrimSpace(string(root))
	plugins := filepath.Join(top, "examples", "plugins")
	packages := map[string][]string{} // by the directory of the module
	for _, p := range programs {
		if path, ok := upstream[p]; ok {
			packages[plugins] = append(packages[plugins], path)
		} else if strings.HasPrefix(p, "./") {
			packages[""] = append(packages[""], p)
		} else {
			packages[top] = append(packages[top], module+"/examples/"+p)
		}
	}
	for in, of := range packages {
		if err := buildIn(in, dir, of...); err != nil {
			return err
		}
	}
	return os.Setenv(programsEnv, dir)
}

const module = "github.com/vpcnet/vpcnet"

// upstream are the packages of the programs of containernetworking.
var upstream = map[string]string{
	"bandwidth":  "github.com/containernetworking/plugins/plugins/meta/bandwidth",
	"cnitool":    "github.com/containernetworking/cni/cnitool",
	"host-local": "github.com/containernetworking/plugins/plugins/ipam/host-local",
	"portmap":    "github.com/containernetworking/plugins/plugins/meta/portmap",
	"tuning":     "github.com/containernetworking/plugins/plugins/meta/tuning",
}

// buildIn builds packages into dir. The working directory selects the module.
func buildIn(working, dir string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-ldflags=-s -w", "-o", dir + string(os.PathSeparator)}, packages...)...)
	cmd.Dir, cmd.Env = working, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Program returns the path of a program that [Main] has built.
func Program(name string) string { return filepath.Join(os.Getenv(programsEnv), name) }

// Config describes the agent of a node. The zero value is ipamd with its defaults.
type Config struct {
	// Program is the agent. Empty means ipamd.
	Program string
	// Env has environment variables of the agent, which override those of Start.
	Env map[string]string
	// Args are arguments of the agent.
	Args []string
	// Wrap is a command that gets the agent's command as further arguments.
	Wrap []string
}

// Node is a node with an agent.
type Node struct {
	*vpctest.Node
	// Agent is the running agent.
	Agent *vpctest.Process

	dir string
	cfg Config
}

// Start starts an agent on a node and waits until it is ready.
func Start(t *testing.T, node *vpctest.Node, cfg Config) *Node {
	t.Helper()
	// The path of a socket may have 103 bytes, so it cannot contain the name of the test.
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := &Node{Node: node, dir: dir, cfg: cfg}
	n.Run(t)
	n.WaitReady(t)
	return n
}

// File returns the path of a file in the directory of the node.
func (n *Node) File(name string) string { return filepath.Join(n.dir, name) }

// Run starts the agent, which must not be running. It does not wait.
func (n *Node) Run(t *testing.T) {
	t.Helper()
	n.Agent = n.Node.Start(t, n.Command(n.cfg.Args...))
}

// Command returns the command of the agent with other arguments, and the variables that it
// has.
func (n *Node) Command(args ...string) *exec.Cmd {
	program := n.cfg.Program
	if program == "" {
		program = "ipamd"
	}
	line := slices.Concat(n.cfg.Wrap, []string{Program(program)}, args)
	cmd := exec.Command(line[0], line[1:]...)
	vars := map[string]string{
		"VPCNET_SOCKET": n.File("agent.sock"), "VPCNET_STATE_DIR": n.File("state"), "VPCNET_CONFLIST": n.File("10-vpcnet.conflist"),
		"VPCNET_STATUS_SOCKET": n.File("status.sock"), "HOST_CNI_BIN_PATH": n.File("bin"),
	}
	maps.Copy(vars, n.cfg.Env)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, n.Env()...)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		cmd.Env = append(cmd.Env, name+"="+vars[name])
	}
	return cmd
}

// patience is how long methods wait for the agent.
const patience = 2 * time.Minute

// WaitReady waits until the agent can serve pods and has written the CNI configuration.
func (n *Node) WaitReady(t *testing.T) {
	t.Helper()
	n.Eventually(t, func() error {
		err := cniplugin.Client{Socket: n.File("agent.sock")}.Status(t.Context())
		if err == nil {
			_, err = os.Stat(n.File("10-vpcnet.conflist"))
		}
		return err
	})
}

// Eventually waits until f returns nil. It ends the test if the agent ends, or after two
// minutes.
func (n *Node) Eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-n.Agent.Done():
			t.Fatalf("the agent of %s ended: %v\n%s", n.Name(), n.Agent.Err(), n.Agent.Output())
		case <-deadline:
			t.Fatalf("%s: %v", n.Name(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Configure changes the configuration of the agent from its next start on.
func (n *Node) Configure(cfg Config) { n.cfg = cfg }

// Restart ends the agent by a signal, such as SIGTERM or SIGKILL, and starts it again.
func (n *Node) Restart(t *testing.T, s syscall.Signal) {
	t.Helper()
	n.Agent.Signal(t, s)
	select {
	case <-n.Agent.Done():
	case <-time.After(patience):
		t.Fatalf("the agent of %s does not end", n.Name())
	}
	n.Run(t)
	n.WaitReady(t)
}

// Status returns the status of the agent.
func (n *Node) Status(t *testing.T) (s ipamd.Status) {
	t.Helper()
	n.Eventually(t, func() (err error) {
		s, err = ipamd.ReadStatus(t.Context(), "unix:"+n.File("status.sock"))
		return err
	})
	return s
}

// Pod is a pod that the plugin has connected.
type Pod struct {
	*vpctest.Pod
	// Result is the result of ADD, and Addrs has its addresses in order.
	Result *types100.Result
	Addrs  []netip.Addr

	node *Node
	rt   *libcni.RuntimeConf
	list *libcni.NetworkConfigList
}

// PodConfig describes how a runtime adds a pod. The zero value has the CNI configuration
// that the agent wrote.
type PodConfig struct {
	// Conflist is the network configuration list as text. Empty means that of the agent.
	Conflist string
	// Args are further CNI_ARGS, and Capabilities the capabilities of the runtime.
	Args         map[string]string
	Capabilities map[string]any
	// Silent pods have no echo server.
	Silent bool

	// before is called with the sandbox before ADD.
	before func(*vpctest.Pod)
}

// AddPod adds a pod with the agent's configuration, and an echo server in it. The pod is
// deleted when the test ends.
func (n *Node) AddPod(t *testing.T) *Pod {
	t.Helper()
	return n.AddPodWith(t, PodConfig{})
}

// AddPodWith adds a pod as the configuration says, and an echo server in it. The pod is
// deleted when the test ends.
func (n *Node) AddPodWith(t *testing.T, cfg PodConfig) *Pod {
	t.Helper()
	p, err := n.TryPod(t, cfg)
	if err != nil {
		t.Fatalf("ADD on %s: %v", n.Name(), err)
	}
	return p
}

// TryPod is AddPodWith, but returns the error of ADD.
func (n *Node) TryPod(t *testing.T, cfg PodConfig) (*Pod, error) {
	t.Helper()
	p := &Pod{Pod: n.Pod(t), node: n}
	text := []byte(cfg.Conflist)
	var err error
	if cfg.Conflist == "" {
		if text, err = os.ReadFile(n.File("10-vpcnet.conflist")); err != nil {
			t.Fatal(err)
		}
	}
	if p.list, err = libcni.ConfListFromBytes(text); err != nil {
		t.Fatal(err)
	}
	p.rt = &libcni.RuntimeConf{
		ContainerID: p.Name(), NetNS: p.Path(), IfName: "eth0", CapabilityArgs: cfg.Capabilities,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.Name()}},
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Args)) {
		p.rt.Args = append(p.rt.Args, [2]string{name, cfg.Args[name]})
	}
	if cfg.before != nil {
		cfg.before(p.Pod)
	}
	var addErr error
	n.Do(t, func() error {
		addErr = p.add(t.Context())
		return nil
	})
	if addErr != nil {
		return nil, addErr
	}
	if cfg.Silent {
		return p, nil
	}
	for _, a := range p.Addrs {
		p.Echo(t, netip.AddrPortFrom(a, vpctest.EchoPort))
	}
	return p, nil
}

func (p *Pod) add(ctx context.Context) error {
	res, err := p.cni().AddNetworkList(ctx, p.list, p.rt)
	if err != nil {
		return err
	}
	if p.Result, err = types100.NewResultFromResult(res); err != nil {
		return err
	}
	for _, ip := range p.Result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		p.Addrs = append(p.Addrs, a.Unmap())
	}
	if len(p.Addrs) == 0 {
		return errors.New("the result has no address")
	}
	return nil
}

func (p *Pod) cni() *libcni.CNIConfig { return p.node.CNI() }

// CNI returns a runtime's view of the plugins. Plugins run in the namespace of the calling
// thread, so call its methods in [vpctest.Host.Do].
func (n *Node) CNI() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{os.Getenv(programsEnv)}, n.File("cache"), nil)
}

// Check runs CHECK.
func (p *Pod) Check(t *testing.T) {
	t.Helper()
	p.node.Do(t, func() error { return p.cni().CheckNetworkList(t.Context(), p.list, p.rt) })
}

// Delete runs DEL and removes the sandbox.
func (p *Pod) Delete(t *testing.T) {
	t.Helper()
	p.node.Do(t, func() error { return p.cni().DelNetworkList(t.Context(), p.list, p.rt) })
	p.Pod.Delete(t)
}

// At returns the echo server of the pod at one of its addresses.
func (p *Pod) At(i int) netip.AddrPort { return netip.AddrPortFrom(p.Addrs[i], vpctest.EchoPort) }
