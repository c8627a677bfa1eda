// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

var (
	_ server.Backend      = cniplugin.Client{}
	_ cniplugin.Allocator = server.Backend(nil)
)

// TestStandalone drives the example of a plugin without an agent, in each version. Its
// source must be as short as the documentation says.
func TestStandalone(t *testing.T) {
	isolatetest.Require(t)
	source, err := os.ReadFile("../examples/standalone/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(source, []byte("\n")); lines >= 60 {
		t.Errorf("the example has %d lines, want less than 60", lines)
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../examples/standalone").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	nodeAddr(t, "10.1.0.1/32")
	before, err := kernelState()
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"n","plugins":[{"type":"standalone","stateDir":%q}]}`, version, t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		var pods []*libcni.RuntimeConf
		for i := range 2 {
			id := fmt.Sprint("pod", i, "-", version)
			pods = append(pods, &libcni.RuntimeConf{ContainerID: id, NetNS: newSandbox(t, id), IfName: "eth0"})
		}
		for i, rt := range pods {
			want := fmt.Sprint("10.88.0.", 2+i)
			for range 2 { // a repeated ADD gives the same address
				added, err := cni.AddNetworkList(t.Context(), list, rt)
				if err != nil {
					t.Fatalf("%s: ADD: %v", version, err)
				}
				if addrs, err := cniplugin.AddressesOf(added); err != nil || len(addrs) != 1 || addrs[0].Addr.String() != want {
					t.Errorf("%s: the result has %v, %v, want %s", version, addrs, err, want)
				}
			}
			if version >= "0.4.0" {
				if err := cni.CheckNetworkList(t.Context(), list, rt); err != nil {
					t.Errorf("%s: CHECK: %v", version, err)
				}
			}
			reachable(t, want)
		}
		if version == "1.1.0" {
			if err := errors.Join(cni.GetStatusNetworkList(t.Context(), list), cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{})); err != nil {
				t.Errorf("STATUS, GC: %v", err)
			}
		}
		for _, rt := range append(pods, pods...) {
			if err := cni.DelNetworkList(t.Context(), list, rt); err != nil {
				t.Errorf("%s: DEL: %v", version, err)
			}
		}
	}
	links, err := filepath.Glob("/run/standalone/*")
	if err != nil || len(links) > 0 {
		t.Errorf("addresses in use: %v, %v, want none", links, err)
	}
	after, err := kernelState()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("left behind: -before +after:\n%s", diff)
	}
}

// nodeAddr gives the node an address, from which its packets come.
func nodeAddr(t *testing.T, addr string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, parsed)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.AddrDel(lo, parsed); err != nil {
			t.Error(err)
		}
	})
}

// reachable sends a packet to a port of a pod that no process has: the pod's kernel
// answers with an ICMP error.
func reachable(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("send to %s: %v", addr, err)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("answer of %s: %v, want %v", addr, err, unix.ECONNREFUSED)
	}
}

// minimal is an Allocator without optional methods, and a Wiring without Check. It
// records its calls.
type minimal struct {
	calls  []string
	addErr error // of the Wiring
	delErr error // of the Allocator
	result func(cniplugin.WiringRequest) *cniplugin.Result
	panics string // the method that panics
}

func (m *minimal) record(method string, req fmt.Stringer) {
	m.calls = append(m.calls, method+" "+req.String())
	if method == m.panics {
		panic("index out of range")
	}
}

type minimalAllocator struct{ *minimal }

func (a minimalAllocator) Add(_ context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	a.record("allocate", req)
	return cniplugin.AddResponse{Addresses: []cniplugin.Address{
		{Addr: netip.MustParseAddr("10.0.1.5"), ENI: "eni-1"}, {Addr: netip.MustParseAddr("2001:db8::5"), ENI: "eni-1"},
	}}, nil
}

func (a minimalAllocator) Del(_ context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	a.record("release", req)
	return cniplugin.DelResponse{}, a.delErr
}

type minimalWiring struct{ *minimal }

func (w minimalWiring) Add(_ context.Context, req cniplugin.WiringRequest) (*cniplugin.Result, error) {
	w.record("wire", req)
	if w.result != nil {
		return w.result(req), w.addErr
	}
	return req.Result(), w.addErr
}

func (w minimalWiring) Del(_ context.Context, req cniplugin.WiringRequest) error {
	w.record("unwire", req)
	return nil
}

// main runs one command with m as Allocator and Wiring. It has no privileges to use.
func (m *minimal) main(t *testing.T, command, version, fields string) (out string, status int) {
	t.Helper()
	env := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": sandboxPath("c1"), "CNI_IFNAME": "eth0",
		"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
	}
	var stdout, stderr bytes.Buffer
	m.calls = nil
	status = cniplugin.Plugin{Allocator: minimalAllocator{m}, Wiring: minimalWiring{m}}.Main(t.Context(), cniplugin.Invocation{
		Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr,
		Stdin: strings.NewReader(fmt.Sprintf(`{"cniVersion":%q,"name":"n","stateDir":"/run/minimal","ipam":{"type":"x"},"vethPrefix":"pod"%s}`, version, fields)),
	})
	return stdout.String(), status
}

// TestOwnAllocatorAndWiring runs all commands with the least that the interfaces need.
func TestOwnAllocatorAndWiring(t *testing.T) {
	isolatetest.Require(t)
	newSandbox(t, "c1")
	m := new(minimal)
	const prev = `,"prevResult":{"interfaces":[{"name":"net0"}],"ips":[{"version":"4","address":"192.168.0.9/24","interface":0}]}`
	var result string
	for _, version := range []string{"0.1.0", "0.3.0", "1.1.0"} {
		fields := prev
		if version == "0.1.0" {
			fields = ""
		}
		out, status := m.main(t, "ADD", version, fields)
		if status != 0 {
			t.Fatalf("%s: ADD: %s", version, out)
		}
		parsed, err := types100.NewResult([]byte(out))
		if version == "1.1.0" {
			if err != nil {
				t.Fatal(err)
			}
			r := parsed.(*types100.Result)
			if len(r.Interfaces) != 2 || r.Interfaces[1].Name != "eth0" || len(r.IPs) != 3 || *r.IPs[0].Interface != 0 || *r.IPs[2].Interface != 1 {
				t.Errorf("result %s, want net0 and eth0, and addresses 2 and 3 on eth0", out)
			}
			result = out
		}
		want := []string{
			"allocate n/c1/eth0 in /run/netns/c1 for default/web",
			"wire n/c1/eth0 in /run/netns/c1 for default/web: {Addresses:[{Addr:10.0.1.5 ENI:eni-1 Card:0 Device:0 Table:0} {Addr:2001:db8::5 ENI:eni-1 Card:0 Device:0 Table:0}] Layout: MTU:0 HostLinkPrefix: Interfaces:[] Mode:veth}",
		}
		if diff := cmp.Diff(want, m.calls); diff != "" {
			t.Errorf("%s: ADD: -want +got:\n%s", version, diff)
		}
	}
	for _, tc := range []struct {
		command, fields string
		calls           []string
	}{
		{"CHECK", `,"prevResult":` + result, nil},
		{"STATUS", "", nil},
		{"GC", `,"cni.dev/valid-attachments":[]`, nil},
		{"DEL", `,"prevResult":7`, []string{
			"unwire n/c1/eth0 in /run/netns/c1 for default/web: {Addresses:[] Layout: MTU:0 HostLinkPrefix: Interfaces:[] Mode:veth}", "release n/c1/eth0 for default/web",
		}},
	} {
		if out, status := m.main(t, tc.command, "1.1.0", tc.fields); status != 0 {
			t.Errorf("%s: %s", tc.command, out)
		}
		if diff := cmp.Diff(tc.calls, m.calls); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tc.command, diff)
		}
	}
}

// TestOwnFailures checks what the runtime gets if an Allocator or a Wiring fails,
// answers nonsense or panics, and that ADD undoes its steps.
func TestOwnFailures(t *testing.T) {
	isolatetest.Require(t)
	newSandbox(t, "c1")
	undone := []string{"unwire", "release"}
	for _, tc := range []struct {
		name, command string
		m             minimal
		code          cniplugin.Code
		text          string
		last          []string // the methods that are called last
	}{
		{name: "error of a form", command: "ADD", m: minimal{addErr: fmt.Errorf("wire: %w", types.NewError(42, "no bridge", "make one"))}, code: 42, text: "no bridge", last: undone},
		{name: "plain error", command: "ADD", m: minimal{addErr: errors.New("no bridge")}, code: cniplugin.CodeDatapath, text: "no bridge", last: undone},
		{name: "nil entry", command: "ADD", m: minimal{result: func(cniplugin.WiringRequest) *cniplugin.Result {
			return &cniplugin.Result{Interfaces: []*types100.Interface{nil}}
		}}, code: cniplugin.CodeInternal, text: "nil", last: undone},
		{name: "index", command: "ADD", m: minimal{result: func(r cniplugin.WiringRequest) *cniplugin.Result {
			out := r.Result()
			out.IPs[0].Interface = types100.Int(1)
			return out
		}}, code: cniplugin.CodeInternal, text: "interface 1 of 1", last: undone},
		{name: "release", command: "DEL", m: minimal{delErr: errors.New("disk full")}, code: cniplugin.CodeAgent, text: "disk full", last: undone},
		{name: "panic in Add", command: "ADD", m: minimal{panics: "allocate"}, code: cniplugin.CodeInternal, text: "panicked: index out of range"},
		{name: "panic in the wiring", command: "ADD", m: minimal{panics: "wire"}, code: cniplugin.CodeInternal, text: "panicked"},
		{name: "panic in Del", command: "DEL", m: minimal{panics: "release"}, code: cniplugin.CodeInternal, text: "panicked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, status := tc.m.main(t, tc.command, "1.0.0", "")
			expect(t, badInput{code: tc.code, text: tc.text}, status, []byte(out))
			for i, want := range tc.last {
				if at := len(tc.m.calls) - len(tc.last) + i; at < 0 || !strings.HasPrefix(tc.m.calls[at], want+" ") {
					t.Errorf("calls %q, want the last to be %q", tc.m.calls, tc.last)
				}
			}
			if stones, _ := filepath.Glob("/run/minimal/tombstones/*.json"); len(stones) > 0 {
				t.Errorf("tombstones %q: no agent collects them", stones)
			}
			again := minimal{} // no lock is left behind
			if out, status := again.main(t, "DEL", "1.0.0", `,"timeout":"1s"`); status != 0 {
				t.Errorf("DEL afterwards: %s", out)
			}
		})
	}
}

// TestBackendIsAllocator runs a plugin with the Backend of an agent as its Allocator.
func TestBackendIsAllocator(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	newSandbox(t, "c1")
	agent := servertest.New(ofLayout("per-pod"))
	for _, i := range []invocation{n.add("c1"), n.del("c1")} {
		env := map[string]string{"CNI_COMMAND": i.command, "CNI_CONTAINERID": i.id, "CNI_NETNS": i.netns, "CNI_IFNAME": i.ifName}
		var stdout, stderr bytes.Buffer
		status := cniplugin.Plugin{Allocator: agent}.Main(t.Context(), cniplugin.Invocation{
			Getenv: func(k string) string { return env[k] }, Stdin: strings.NewReader(i.stdin), Stdout: &stdout, Stderr: &stderr,
		})
		if held := len(agent.Held()); status != 0 || held == 1 != (i.command == "ADD") {
			t.Errorf("%s: exit status %d, %s; the backend has %d attachments", i.command, status, &stdout, held)
		}
	}
	if calls := n.agent.Calls(); len(calls) > 0 {
		t.Errorf("the agent has served %v, want nothing", calls)
	}
}
