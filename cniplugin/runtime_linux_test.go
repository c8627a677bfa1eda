// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/datapath"
)

// list returns the node's conflist as libcni reads it.
func (n *node) list(version string, chained ...json.RawMessage) *libcni.NetworkConfigList {
	n.t.Helper()
	b, err := cniplugin.Conflist{
		CNIVersions: []string{version},
		Conf:        cniplugin.NetConf{AgentSocket: n.socket(), StateDir: n.stateDir(), MTU: 1500},
		Chained:     chained,
	}.JSON()
	if err != nil {
		n.t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(b)
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

func (n *node) runtime(dirs ...string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(append(dirs, filepath.Dir(n.plugin)), filepath.Join(n.dir, "cache"), nil)
}

// TestLibcni runs every command of each version with the CNI library, as runtimes
// do.
func TestLibcni(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			id := "pod-" + version
			rt := &libcni.RuntimeConf{
				ContainerID: id, NetNS: newSandbox(t, id), IfName: "eth0",
				Args: [][2]string{{"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web"}, {"IgnoreUnknown", "1"}},
			}
			n.lifecycle(t, n.list(version), rt)
		})
	}
}

func (n *node) lifecycle(t *testing.T, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) {
	cni, ctx := n.runtime(), t.Context()
	if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
		t.Fatal("VERSION:", err)
	}
	if list.CNIVersion == "1.1.0" {
		if err := cni.GetStatusNetworkList(ctx, list); err != nil {
			t.Error("STATUS:", err)
		}
	}
	added, err := cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		t.Fatal("ADD:", err)
	}
	checkResult(t, added, rt.NetNS, list.CNIVersion)
	if list.CNIVersion >= "0.4.0" {
		if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
			t.Error("CHECK:", err)
		}
	}
	if list.CNIVersion == "1.1.0" {
		valid := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: rt.ContainerID, IfName: rt.IfName}}}
		if err := cni.GCNetworkList(ctx, list, valid); err != nil {
			t.Error("GC:", err)
		}
		if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
			t.Error("CHECK after GC:", err)
		}
	}
	for range 2 {
		if err := cni.DelNetworkList(ctx, list, rt); err != nil {
			t.Error("DEL:", err)
		}
	}
}

// checkResult compares a result with the links in the kernel.
func checkResult(t *testing.T, added types.Result, sandbox, version string) {
	t.Helper()
	if added.Version() != version {
		t.Errorf("result of version %s, want %s", added.Version(), version)
	}
	r, err := types100.NewResultFromResult(added)
	if err != nil {
		t.Fatal(err)
	}
	if version < "0.3.0" { // no interfaces, and one address of each family
		if len(r.Interfaces) != 0 || len(r.IPs) != 2 || len(r.Routes) != 2 {
			t.Errorf("result %+v, want 2 addresses and routes", r)
		}
		return
	}
	if len(r.Interfaces) != 2 || len(r.IPs) != 2 || len(r.Routes) != 2 {
		t.Fatalf("result %+v, want 2 interfaces, addresses and routes", r)
	}
	host, inside := r.Interfaces[0], r.Interfaces[1]
	link, err := net.InterfaceByName(host.Name)
	if err != nil || link.HardwareAddr.String() != host.Mac || host.Sandbox != "" {
		t.Errorf("host side %v, the kernel has %+v, %v", host, link, err)
	}
	if inside.Name != "eth0" || inside.Sandbox != sandbox || *r.IPs[0].Interface != 1 {
		t.Errorf("sandbox side %v, address %v, want eth0 in %s with the address", inside, r.IPs[0], sandbox)
	}
	if mac := sandboxMAC(t, sandbox, inside.Name); mac != inside.Mac {
		t.Errorf("sandbox side has MAC %s, the result has %s", mac, inside.Mac)
	}
}

// TestPortmap chains the upstream portmap plugin after vpc-cni. Portmap must accept
// the result, and DEL must remove all its rules.
func TestPortmap(t *testing.T) {
	dir := pluginDir(t, "portmap")
	n := newNode(t, ofLayout("flat"))
	list := n.list("1.0.0", json.RawMessage(`{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`))
	cni := n.runtime(dir)
	rules := natRules(t)
	for range 3 {
		rt := &libcni.RuntimeConf{
			ContainerID: "c1", NetNS: newSandbox(t, "c1"), IfName: "eth0",
			CapabilityArgs: map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
		}
		if _, err := cni.AddNetworkList(t.Context(), list, rt); err != nil {
			t.Fatal("ADD:", err)
		}
		if natRules(t) == rules {
			t.Error("portmap has made no rule")
		}
		// CHECK is left out: portmap 1.1, which Debian 12 has, checks for IPv6 rules
		// that it never made.
		if err := cni.DelNetworkList(t.Context(), list, rt); err != nil {
			t.Fatal("DEL:", err)
		}
		removeSandbox(t, "c1")
	}
}

// pluginDir returns the directory of an upstream plugin. It searches the
// directories in which distributions and go install put plugins.
func pluginDir(t *testing.T, name string) string {
	t.Helper()
	dirs := slices.Concat(filepath.SplitList(os.Getenv("CNI_PATH")),
		[]string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}, filepath.SplitList(os.Getenv("PATH")))
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, "go", "bin"))
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir
		}
	}
	t.Skipf("the upstream plugin %s is not installed; go install github.com/containernetworking/plugins/plugins/meta/%s@latest, or set CNI_PATH", name, name)
	return ""
}

// natRules returns the DNAT rules of nftables and iptables: portmap chooses one of
// them.
func natRules(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "nft list ruleset | grep -e dnat -e DNAT; iptables -t nat -S | grep DNAT; true").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestManyAtOnce adds fifty pods concurrently, as after a reboot, and deletes them.
// No two pods may have the same address.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	const pods = 50
	forEach := func(f func(id string)) {
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() { f(fmt.Sprint("pod", i)) })
		}
		wg.Wait()
	}
	for i := range pods {
		newSandbox(t, fmt.Sprint("pod", i))
	}
	forEach(func(id string) {
		if out, status := n.run(n.add(id)); status != 0 {
			t.Errorf("ADD %s: %s", id, out)
		}
	})
	seen := map[string]cniplugin.Attachment{}
	for a, addrs := range n.agent.Held() {
		if other, ok := seen[addrs[0].String()]; ok {
			t.Errorf("%s and %s both have %s", a, other, addrs[0])
		}
		seen[addrs[0].String()] = a
	}
	if len(seen) != pods {
		t.Errorf("%d addresses in use, want %d", len(seen), pods)
	}
	forEach(func(id string) {
		if out, status := n.run(n.del(id)); status != 0 {
			t.Errorf("DEL %s: %s", id, out)
		}
	})
}

// TestRetired checks that DEL leaves the link of an existing sandbox to an agent
// that sweeps, and deletes it otherwise. A link that is not swept yet must not
// prevent another ADD of the same container, and a later sweep must not delete the
// new link.
func TestRetired(t *testing.T) {
	for _, noSweep := range []bool{false, true} {
		t.Run(fmt.Sprintf("noSweep=%v", noSweep), func(t *testing.T) {
			n := newNode(t, ofLayout("per-pod"))
			n.stop()
			n.noSweep = noSweep
			n.start()
			newSandbox(t, "c1")
			n.must(n.add("c1"))
			n.must(n.del("c1"))
		})
	}

	n := newNode(t, ofLayout("per-pod"))
	newSandbox(t, "c1")
	first := n.must(n.add("c1"))
	h, err := datapath.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	// This is the state after a DEL, before the agent has swept the link.
	if err := h.RetirePod(t.Context(), datapath.Pod{ContainerID: "c1", IfName: "eth0", Netns: sandboxPath("c1")}); err != nil {
		t.Fatal(err)
	}
	if second := n.must(n.add("c1")); !bytes.Equal(first, second) {
		t.Errorf("ADD after a DEL gives %s, want %s as before", second, first)
	}
	n.sweep()
	n.must(invocation{"CHECK", "c1", sandboxPath("c1"), "eth0", "", n.conf("1.0.0", `"prevResult":`+string(first))})
	n.must(n.del("c1"))
}

// fixedAgent is an agent that answers ADD with a fixed answer.
type fixedAgent struct {
	*servertest.Agent
	answer cniplugin.AddResponse
}

func (a *fixedAgent) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	_, err := a.Agent.Add(ctx, req)
	return a.answer, err
}

// TestInvalidAnswers checks that ADD refuses an answer that does not describe a valid
// pod, and releases the address.
func TestInvalidAnswers(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	fixed := &fixedAgent{Agent: n.agent}
	n.backend = fixed
	n.stop()
	n.start()
	newSandbox(t, "c1")
	one := cniplugin.Address{Addr: netip.MustParseAddr("10.0.1.5"), Table: 2}
	two := cniplugin.Address{Addr: netip.MustParseAddr("10.0.1.6"), Table: 2}
	for _, tc := range []struct {
		name   string
		answer cniplugin.AddResponse
		code   cniplugin.Code // 0: success, because older agents answer like this
		text   string
	}{
		{name: "least", answer: cniplugin.AddResponse{Addresses: []cniplugin.Address{one}}},
		{name: "no address", code: cniplugin.CodeAgent, text: "no address"},
		{name: "two of a family", answer: cniplugin.AddResponse{Addresses: []cniplugin.Address{one, two}}, code: cniplugin.CodeAgent, text: "two addresses"},
		{name: "zero address", answer: cniplugin.AddResponse{Addresses: []cniplugin.Address{{}}}, code: cniplugin.CodeAgent, text: "agent-protocol"},
		{name: "new layout", answer: cniplugin.AddResponse{Addresses: []cniplugin.Address{one}, Layout: "round"}, code: cniplugin.CodeAgent, text: "round"},
		{name: "other prefix", answer: cniplugin.AddResponse{Addresses: []cniplugin.Address{one}, HostLinkPrefix: "vpc"}, code: cniplugin.CodeInvalidConfig, text: "vpc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := n.state()
			fixed.answer = tc.answer
			out, status := n.run(n.add("c1"))
			expect(t, badInput{code: tc.code, text: tc.text}, status, out)
			if tc.code == 0 {
				n.must(n.del("c1"))
			}
			if diff := cmp.Diff(before, n.state()); diff != "" {
				t.Errorf("left behind: -before +after:\n%s", diff)
			}
		})
	}
}

// fixedGC is an agent that answers GC with fixed attachments.
type fixedGC struct {
	*servertest.Agent
	stale []cniplugin.Attachment
}

func (a *fixedGC) GC(context.Context, cniplugin.GCRequest) (cniplugin.GCResponse, error) {
	return cniplugin.GCResponse{Stale: a.stale}, nil
}

// TestInvalidStale checks that GC removes neither attachments that the runtime lists
// nor attachments of another network, even if the agent reports them as stale.
func TestInvalidStale(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	valid := cniplugin.Attachment{Network: "vpcnet", ContainerID: "c1", IfName: "eth0"}
	foreign := cniplugin.Attachment{Network: "other", ContainerID: "c2", IfName: "eth0"}
	n.backend = &fixedGC{n.agent, []cniplugin.Attachment{valid, foreign}}
	n.stop()
	n.start()
	newSandbox(t, "c1")
	n.must(n.add("c1"))
	if _, err := n.agent.Add(t.Context(), cniplugin.AddRequest{Attachment: foreign}); err != nil {
		t.Fatal(err)
	}
	before := n.state()
	list := `"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`
	n.must(invocation{command: "GC", stdin: n.conf("1.1.0", list)})
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	n.must(n.del("c1"))
	if _, err := n.agent.Del(t.Context(), cniplugin.DelRequest{Attachment: foreign}); err != nil {
		t.Fatal(err)
	}
}

// TestKilled kills the plugin at random times during ADD and DEL. The next ADD must
// succeed, and the next DEL must remove everything.
func TestKilled(t *testing.T) {
	const seed = 20261121
	random := rand.New(rand.NewPCG(seed, 0))
	n := newNode(t, ofLayout("per-pod"))
	before := n.state()
	// kill runs an invocation and kills it after a random time, which may be a little
	// longer than the invocation takes.
	kill := func(i invocation) {
		const longest = 8 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(longest))))
		defer cancel()
		_ = n.cmd(ctx, i).Run() // SIGKILL when ctx ends
	}
	for round := range 60 {
		id := fmt.Sprint("pod", round)
		newSandbox(t, id)
		kill(n.add(id))
		switch round % 3 {
		case 0: // the runtime tries again
			n.must(n.add(id))
		case 1: // the sandbox ends with the plugin
			removeSandbox(t, id)
		}
		kill(n.del(id))
		del := n.del(id)
		if round%2 == 0 { // like containerd's second DEL
			del.netns = ""
		}
		n.must(del)
		if diff := cmp.Diff(before, n.state()); diff != "" {
			t.Fatalf("round %d, seed %d: left behind: -before +after:\n%s", round, seed, diff)
		}
	}
}
