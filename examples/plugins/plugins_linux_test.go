// SPDX-License-Identifier: Apache-2.0

package plugins_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// build builds plugins into a directory.
func build(t *testing.T, packages ...string) (dir string) {
	t.Helper()
	isolatetest.Require(t)
	dir = t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", dir}, packages...)...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// short checks that the source of an example is as short as the documentation says.
func short(t *testing.T, name string) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(name, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(source, []byte("\n")); lines >= 40 {
		t.Errorf("%s has %d lines, want less than 40", name, lines)
	}
}

// lifecycle runs ADD, CHECK and DEL of the plugins in dir with the CNI library, and
// expects that the pod gets the address.
func lifecycle(t *testing.T, dir, version, plugin, want string) {
	t.Helper()
	sandbox, err := testutils.NewNS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = testutils.UnmountNS(sandbox) }()
	defer sandbox.Close()
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"n","plugins":[%s]}`, version, plugin))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
	rt := &libcni.RuntimeConf{ContainerID: "c1", NetNS: sandbox.Path(), IfName: "eth0"}
	added, err := cni.AddNetworkList(t.Context(), list, rt)
	if err != nil {
		t.Fatalf("%s: ADD: %v", version, err)
	}
	if addrs, err := cniplugin.AddressesOf(added); err != nil || len(addrs) != 1 || addrs[0].Addr.String() != want {
		t.Errorf("%s: the result has %v, %v, want %s", version, addrs, err, want)
	}
	if version >= "0.4.0" {
		if err := cni.CheckNetworkList(t.Context(), list, rt); err != nil {
			t.Errorf("%s: CHECK: %v", version, err)
		}
	}
	err = sandbox.Do(func(ns.NetNS) error {
		_, addrs, err := ip.GetVethPeerIfindex("eth0")
		t.Log("peer of eth0:", addrs, err)
		return err
	})
	if err != nil {
		t.Errorf("%s: eth0 in the sandbox: %v", version, err)
	}
	for range 2 {
		if err := cni.DelNetworkList(t.Context(), list, rt); err != nil {
			t.Errorf("%s: DEL: %v", version, err)
		}
	}
	err = sandbox.Do(func(ns.NetNS) error { return ip.DelLinkByName("eth0") })
	if err != ip.ErrLinkNotFound { //nolint:errorlint // it is never wrapped
		t.Errorf("%s: eth0 after DEL: %v, want %v", version, err, ip.ErrLinkNotFound)
	}
}

var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestHostLocal(t *testing.T) {
	short(t, "hostlocal")
	dir := build(t, "./hostlocal", "github.com/containernetworking/plugins/plugins/ipam/host-local")
	for _, version := range versions {
		data := t.TempDir()
		lifecycle(t, dir, version, fmt.Sprintf(
			`{"type":"hostlocal","stateDir":%q,"ipam":{"type":"host-local","subnet":"10.89.0.0/24","dataDir":%q}}`, t.TempDir(), data), "10.89.0.2")
		if left, err := filepath.Glob(data + "/n/10.*"); err != nil || len(left) > 0 {
			t.Errorf("%s: host-local has %v, %v, want no address in use", version, left, err)
		}
	}
}

func TestPTP(t *testing.T) {
	short(t, "ptp")
	dir := build(t, "./ptp")
	socket := "/run/ptp.sock"
	l, err := server.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	agent := servertest.New(servertest.Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.90.0.7/32")}})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- (&server.Server{Backend: agent}).Serve(ctx, l) }()
	for _, version := range versions {
		lifecycle(t, dir, version, fmt.Sprintf(`{"type":"ptp","agentSocket":%q,"stateDir":%q}`, socket, t.TempDir()), "10.90.0.7")
	}
	stop()
	if err := <-done; err != nil || len(agent.Held()) > 0 {
		t.Errorf("Serve: %v; the agent holds %v, want nothing", err, agent.Held())
	}
}
