// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// TestChain has cnitool run every command for a pod, with upstream's portmap, bandwidth and
// tuning behind vpc-cni. Each plugin has its effect, and nothing of it is left after DEL, nor
// after GC. The GC of cnitool 1.3 deletes all pods that it knows, and then asks the plugins for
// GC without the list of pods, which vpc-cni refuses.
func TestChain(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	client := vpc.Node(t, "t3.small")
	node := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{
		"HOST_CNI_BIN_PATH": os.Getenv(programsEnv), "ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true",
	}})
	// cnitool keeps results below /var/lib.
	results := t.TempDir()
	const inMounts, inMountsFails = `mount --bind "$0" /var/lib && exec "$@"`, `mount --bind "$0" /var/lib && ! "$@"`
	capabilities := fmt.Sprintf(`{"portMappings":[{"hostPort":8080,"containerPort":%d,"protocol":"tcp"}],"bandwidth":{"ingressRate":80000000,"ingressBurst":8000000}}`, vpctest.EchoPort)
	cnitool := func(command string, pod *vpctest.Pod) string {
		t.Helper()
		script := inMounts
		if command == "gc" {
			script = inMountsFails
		}
		return node.Node.Run(t, "env", "NETCONFPATH="+node.File(""), "CNI_PATH="+os.Getenv(programsEnv),
			"CAP_ARGS="+capabilities,
			"unshare", "--mount", "sh", "-c", script, results, Program("cnitool"), command, "vpcnet", pod.Path())
	}
	// links returns the links that a pod makes, and those of upstream's bandwidth.
	links := func() (names []string) {
		for line := range strings.Lines(node.Node.Run(t, "ip", "-o", "link")) {
			if name := strings.Fields(line)[1]; strings.HasPrefix(name, "eni") || strings.HasPrefix(name, "bwp") {
				names = append(names, name)
			}
		}
		return names
	}
	for _, end := range []string{"del", "gc"} {
		pod := node.Pod(t)
		cnitool("status", pod)
		var res types100.Result
		out := cnitool("add", pod)
		if err := json.Unmarshal([]byte(out), &res); err != nil || len(res.IPs) != 1 {
			t.Fatalf("ADD: %v: %s", err, out)
		}
		cnitool("check", pod)
		addr, _ := netip.AddrFromSlice(res.IPs[0].Address.IP.To4())
		at := netip.AddrPortFrom(addr, vpctest.EchoPort)
		stop := pod.Echo(t, at)
		for _, to := range []netip.AddrPort{at, netip.AddrPortFrom(node.Addr, 8080)} {
			if seen := client.Ask(t, "tcp", to).Addr(); seen != client.Addr {
				t.Errorf("the pod at %v sees %v, want the client %v", to, seen, client.Addr)
			}
		}
		if off := pod.Run(t, "sysctl", "-n", "net.ipv6.conf.all.disable_ipv6"); strings.TrimSpace(off) != "1" {
			t.Errorf("disable_ipv6 is %s, want the 1 of tuning", off)
		}
		if shaped := node.Node.Run(t, "tc", "qdisc"); !strings.Contains(shaped, "tbf") || !strings.Contains(shaped, "rate 80Mbit") {
			t.Errorf("queues %s, want one of bandwidth with 80 Mbit/s", shaped)
		}
		if got := links(); len(got) == 0 {
			t.Error("the pod has no host link")
		}
		stop()
		if out := cnitool(end, pod); end == "gc" && !strings.Contains(out, "missing cni.dev/valid-attachments") {
			t.Errorf("GC: %s, want the plugin's refusal", out)
		}
		cnitool("del", pod)
		if left := links(); len(left) > 0 {
			t.Errorf("links after %s: %v", end, left)
		}
		for _, show := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}} {
			if left := node.Node.Run(t, show[0], show[1:]...); strings.Contains(left, "8080") {
				t.Errorf("%s after %s: %s", show[0], end, left)
			}
		}
		if s := node.Status(t); slices.ContainsFunc(s.Allocations, func(a ipamd.PodStatus) bool { return a.Addr == addr }) {
			t.Errorf("%v is allocated after %s", addr, end)
		}
	}
	wantNoDrops(t, vpc)
}
