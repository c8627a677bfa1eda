// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestInstall installs on a node with the capabilities of the unit of systemd, which fails
// without each of them, and removes what was installed. The settings of the kernel are then as
// before.
func TestInstall(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	node := vpc.Node(t, "t3.small")
	dir := t.TempDir()
	bin, state := filepath.Join(dir, "opt", "cni", "bin"), filepath.Join(dir, "state")
	needed := capabilities(t)
	line := func(command string, capabilities ...string) []string {
		return append(with(capabilities...), Program("ipamd"), command, "-cni-bin-dir="+bin, "-state-dir="+state, "-enable-v6-egress", "-preflight=off")
	}
	ipamd := func(command string) {
		t.Helper()
		l := line(command, needed...)
		node.Run(t, l[0], l[1:]...)
	}
	sysctls := func() string { return node.Run(t, "sysctl", "net.ipv4.conf.ens5.rp_filter", "net.ipv4.ip_forward") }
	node.Run(t, "sysctl", "-w", "net.ipv4.conf.ens5.rp_filter=1", "net.ipv4.ip_forward=0")
	before := sysctls()
	for i, missing := range needed {
		l := line("install", append(append([]string{}, needed[:i]...), needed[i+1:]...)...)
		p := node.Start(t, exec.Command(l[0], l[1:]...))
		<-p.Done()
		// The kernel refuses the write, or in a user namespace the opening of the file.
		out := p.Output()
		if p.Err() == nil || !strings.Contains(out, "operation not permitted") && !strings.Contains(out, "permission denied") {
			t.Errorf("install without %s: %v: %s, want it to name the permission", missing, p.Err(), out)
		}
	}
	ipamd("install")
	if got, want := sysctls(), "net.ipv4.conf.ens5.rp_filter = 2\nnet.ipv4.ip_forward = 1\n"; got != want {
		t.Errorf("settings %s, want %s", got, want)
	}
	for _, name := range []string{"vpc-cni", "egress-cni"} {
		want, err := os.Stat(Program(name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.Stat(filepath.Join(bin, name))
		if err != nil || got.Size() != want.Size() || got.Mode().Perm() != 0o755 {
			t.Errorf("installed %s: %v, %v, want %d bytes", name, got, err, want.Size())
		}
	}
	ipamd("install")
	ipamd("uninstall")
	if got := sysctls(); got != before {
		t.Errorf("settings after the removal %s, want %s", got, before)
	}
	left, err := filepath.Glob(bin + "/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left in the directory of plugins: %v, %v", left, err)
	}
}

// TestHostPort runs pods that are reached at ports of the node: the agent has upstream's portmap
// in its CNI configuration, because its program is in the directory of plugins. The pod on
// the second ENI gets one too. The client keeps its address.
func TestHostPort(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	client := Start(t, vpc.Node(t, "t3.small"), Config{})
	asks := client.AddPod(t)
	node := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{"HOST_CNI_BIN_PATH": os.Getenv(programsEnv)}})
	if err := logged(node, "hostPort of pods has no effect"); err == nil {
		t.Error("the log says that there is no portmap")
	}
	for i := range 4 {
		port := 8080 + i
		p := node.AddPodWith(t, PodConfig{Capabilities: map[string]any{
			"portMappings": []map[string]any{{"hostPort": port, "containerPort": vpctest.EchoPort, "protocol": "tcp"}},
		}})
		to := netip.AddrPortFrom(node.Addr, uint16(port))
		if got := asks.Ask(t, "tcp", to).Addr(); got != asks.Addrs[0] {
			t.Errorf("pod %v sees %v at port %d, want the client %v", p.Addrs[0], got, port, asks.Addrs[0])
		}
		p.Check(t)
	}
	if enis := node.ENIs(); len(enis) < 2 {
		t.Errorf("%d ENIs, want a second one for the fourth pod", len(enis))
	}
	wantNoDrops(t, vpc)
}

// TestListOfOperator edits the CNI configuration. The agent leaves it as it is, and says so.
func TestListOfOperator(t *testing.T) {
	t.Parallel()
	node := Start(t, vpctest.New(t).Node(t, "t3.small"), Config{})
	if err := logged(node, "/bin has no plugin portmap: hostPort of pods has no effect"); err != nil {
		t.Error(err)
	}
	list := node.File("10-vpcnet.conflist")
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), `"vethPrefix": "eni"`, `"mtu": 1400, "vethPrefix": "eni"`, 1)
	if edited == string(text) {
		t.Fatalf("the list has no prefix of host links: %s", text)
	}
	if err := os.WriteFile(list, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	node.Configure(Config{Env: map[string]string{"AWS_VPC_K8S_PLUGIN_LOG_LEVEL": "debug"}})
	node.Restart(t, 15)
	node.Eventually(t, func() error { return logged(node, "stays as it is", list) })
	if got, err := os.ReadFile(list); string(got) != edited {
		t.Errorf("the list is %s, %v, want the operator's", got, err)
	}
	p := node.AddPod(t)
	if mtu := p.Run(t, "ip", "-o", "link", "show", "eth0"); !strings.Contains(mtu, "mtu 1400") {
		t.Errorf("link of a pod: %s, want the MTU of the operator", mtu)
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	node.Restart(t, 15)
	if got, err := os.ReadFile(list); !strings.Contains(string(got), `"pluginLogLevel": "debug"`) {
		t.Errorf("the list after it was removed: %s, %v, want the agent's", got, err)
	}
}

// TestMissingPlugin asks for a plugin that the node lacks: the CNI configuration is written
// when it is there, and not before.
func TestMissingPlugin(t *testing.T) {
	t.Parallel()
	node := &Node{Node: vpctest.New(t).Node(t, "t3.small"), dir: t.TempDir()}
	node.Configure(Config{Env: map[string]string{"ENABLE_BANDWIDTH_PLUGIN": "true"}})
	node.Run(t)
	node.Eventually(t, func() error { return logged(node, "has no plugin bandwidth", "ENABLE_BANDWIDTH_PLUGIN") })
	if _, err := os.Stat(node.File("10-vpcnet.conflist")); err == nil {
		t.Error("the CNI configuration was written without the plugin")
	}
	script := "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'\n"
	if err := os.MkdirAll(node.File("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node.File("bin/bandwidth"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	node.WaitReady(t)
	text, err := os.ReadFile(node.File("10-vpcnet.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"type": "bandwidth"`, `"cniVersion": "1.0.0"`} {
		if !strings.Contains(string(text), part) {
			t.Error(fmt.Errorf("the list lacks %s: %s", part, text))
		}
	}
}
