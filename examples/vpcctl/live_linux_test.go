// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// liveNode is a node with two ENIs in a VPC and a pod on the second ENI.
type liveNode struct {
	ns, sandbox *fabric.Netns
	pod         datapath.Pod
	agent       string // address of the agent
}

func newLiveNode(t *testing.T, layout datapath.Layout) *liveNode {
	t.Helper()
	isolatetest.Require(t)
	vpc := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8:1::/56")}
	f, err := fabric.New(t.Context(), fabric.Config{VPC: vpc, Subnets: []fabric.Subnet{
		{ID: "subnet-a", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("2001:db8:1:1::/64")}},
	}})
	check(t, err)
	t.Cleanup(func() { check(t, f.Close()) })
	l := &liveNode{}
	l.ns, err = f.AddInstance("node")
	check(t, err)
	n := datapath.Node{Layout: layout}
	for i := range 2 {
		addrs := []netip.Addr{addr4(10 + 10*i), addr6(10 + 10*i), addr4(11 + 10*i), addr6(11 + 10*i)}
		e := fabric.ENI{
			ID: fmt.Sprintf("eni-%d", i), MAC: net.HardwareAddr{6, 0, 0, 0, 0, byte(i)}, Instance: "node", Device: i,
			Subnet: "subnet-a", Addr: addrs[0], Addrs: addrs[1:], Public: i == 0,
		}
		check(t, f.Attach(e))
		n.ENIs = append(n.ENIs, datapath.ENI{
			ID: e.ID, MAC: e.MAC, Device: i, Addrs: []netip.Prefix{netip.PrefixFrom(addrs[0], 24), netip.PrefixFrom(addrs[1], 64)},
			Sources: []netip.Prefix{netip.PrefixFrom(addrs[2], 32), netip.PrefixFrom(addrs[3], 128)},
		})
	}
	check(t, f.Boot(t.Context(), "node"))
	h, err := datapath.Open(l.ns.Path())
	check(t, err)
	t.Cleanup(func() { h.Close() })
	check(t, h.EnsureNode(t.Context(), n))
	check(t, f.WaitUp(t.Context(), "eni-1"))
	rules, err := snat.Config{NodeAddrs: []netip.Addr{addr4(10), addr6(10)}, PrimaryLink: "ens5", VPC: vpc}.Ruleset()
	check(t, err)
	s, err := snat.Open(l.ns.Path())
	check(t, err)
	defer s.Close()
	_, err = s.Apply(t.Context(), rules)
	check(t, err)

	l.sandbox, err = fabric.CreateNetns("/run/netns/pod-" + string(layout))
	check(t, err)
	t.Cleanup(func() { check(t, l.sandbox.Delete()) })
	l.pod = datapath.Pod{
		ContainerID: "one", IfName: "eth0", Netns: l.sandbox.Path(), Layout: layout,
		Addrs: []datapath.PodAddr{{Addr: addr4(21), Table: 2}, {Addr: addr6(21), Table: 2}},
	}
	_, err = h.AddPod(t.Context(), l.pod)
	check(t, err)
	l.serve(t, n)
	return l
}

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}) }

func addr6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:1:1::%x", n)) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve serves the introspection of the node's agent.
func (l *liveNode) serve(t *testing.T, n datapath.Node) {
	type block struct {
		Prefix netip.Prefix `json:"prefix"`
	}
	type eni struct {
		ID     string         `json:"id"`
		MAC    string         `json:"mac"`
		Device int            `json:"device"`
		Addrs  []netip.Prefix `json:"addrs"`
		Blocks []block        `json:"blocks"`
	}
	status := struct {
		Network     map[string]any    `json:"network"`
		ENIs        []eni             `json:"enis"`
		Allocations []ipamd.PodStatus `json:"allocations"`
	}{Network: map[string]any{"layout": n.Layout, "hostLinkPrefix": "eni"}}
	for _, e := range n.ENIs {
		x := eni{ID: e.ID, MAC: e.MAC.String(), Device: e.Device, Addrs: e.Addrs}
		for _, p := range e.Sources {
			x.Blocks = append(x.Blocks, block{p})
		}
		status.ENIs = append(status.ENIs, x)
	}
	for _, a := range l.pod.Addrs {
		status.Allocations = append(status.Allocations, ipamd.PodStatus{Addr: a.Addr, ENI: "eni-1", Namespace: "default", Pod: "one", Link: l.pod.HostLink()})
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(status) }))
	t.Cleanup(srv.Close)
	l.agent = strings.TrimPrefix(srv.URL, "http://")
}

// plantedFaults lists commands that break the node, and the names of the faults for
// IPv4 and IPv6 that vpcctl finds with the agent and without. The tests of package
// datapath cover all faults.
var plantedFaults = []struct {
	name, do                string
	withAgent, withoutAgent [2]string
}{
	{name: "nothing"},
	{
		name: "table of the ENI by another link", do: `ip route replace default via 10.0.1.1 dev ens5 onlink table 2; ip -6 route replace default via fe80:ec2::1 dev ens5 table 2`,
		withAgent: [2]string{"", "wrong-eni wrong-route"}, withoutAgent: [2]string{"", "wrong-eni wrong-route"},
	},
	{
		name: "table of the ENI flushed", do: `ip route flush table 2; ip -6 route flush table 2`,
		withAgent: [2]string{"", "missing-route wrong-eni"}, withoutAgent: [2]string{"", "missing-route wrong-eni"},
	},
	{
		name: "translation's mark gone", do: `nft flush chain inet vpcnet-snat pods`,
		withAgent: [2]string{"lost-snat missing-mark", ""}, withoutAgent: [2]string{"lost-snat missing-mark", ""},
	},
	{
		name: "translation gone", do: `nft delete table inet vpcnet-snat`,
		withAgent: [2]string{"lost-snat", ""}, withoutAgent: [2]string{"lost-snat", ""},
	},
	{
		name: "rule of the mark gone", do: `ip rule del pref 1024 fwmark 0x80/0x80; ip -6 rule del pref 1024 fwmark 0x80/0x80`,
		withAgent: [2]string{"lost-snat missing-rule", ""}, withoutAgent: [2]string{"lost-snat missing-rule", ""},
	},
	{
		name: "host link down", do: `ip link set $LINK down`,
		withAgent: [2]string{"link-down", "link-down"}, withoutAgent: [2]string{"unknown-source", "unknown-source"},
	},
}

// TestTraceLive traces packets of a pod to the internet on a node in a VPC, with and
// without the agent, live and from a saved state, and compares the result with sent
// packets.
func TestTraceLive(t *testing.T) {
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s: %v", tool, err)
		}
	}
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, p := range plantedFaults {
			t.Run(string(layout)+"/"+p.name, func(t *testing.T) {
				l := newLiveNode(t, layout)
				check(t, l.ns.Do(func() error {
					cmd := exec.Command("sh", "-ec", p.do)
					cmd.Env = append(os.Environ(), "LINK="+l.pod.HostLink())
					out, err := cmd.CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				}))
				for i, dst := range []netip.Addr{fabric.InternetAddr, fabric.InternetAddr6} {
					withoutAgent := p.withoutAgent[i]
					if layout == datapath.PerPod && withoutAgent == p.withAgent[i] && strings.Contains(withoutAgent, "wrong-eni") {
						withoutAgent = "" // the kernel does not know which ENI owns the source
					}
					l.trace(t, l.pod.Addrs[i].Addr, dst, p.withAgent[i], withoutAgent)
				}
			})
		}
	}
}

// silence is how long a test waits for an answer that must not arrive.
const silence = 700 * time.Millisecond

// trace runs "vpcctl trace" live, on a saved state, and without agent and sandbox, and
// compares the result with a packet that it sends.
func (l *liveNode) trace(t *testing.T, src, dst netip.Addr, withAgent, withoutAgent string) {
	t.Helper()
	node := []string{"-netns", l.ns.Path()}
	all := append(slices.Clone(node), "-agent", l.agent, "-sandbox", l.sandbox.Path())
	code, state, stderr := vpcctl(t, append([]string{"state", "save"}, all...)...)
	if code != 0 {
		t.Fatalf("state save: exit %d, %s", code, stderr)
	}
	file := filepath.Join(t.TempDir(), "state.json")
	check(t, os.WriteFile(file, []byte(state), 0o600))

	path := traced(t, withAgent, append(all, "default/one", dst.String())...)
	traced(t, withAgent, "-state", file, src.String(), dst.String())
	bare := traced(t, withoutAgent, append(node, src.String(), dst.String())...)
	if bare.OK() && len(bare.Unchecked) == 0 {
		t.Errorf("without agent and sandbox the list of unchecked items is empty:\n%s", bare)
	}

	limit := 10 * time.Second
	if !path.OK() {
		limit = silence
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	seen, err := l.sandbox.Ask(ctx, "udp", netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, fabric.EchoPort))
	switch {
	case path.OK() != (err == nil):
		t.Errorf("answer %v, %v:\n%s", seen, err, path)
	case err == nil && seen.Addr() != path.Source:
		t.Errorf("the server saw the source %s, want %s:\n%s", seen, path.Source, path)
	}
}

// traced runs "vpcctl trace" and compares the names of the faults.
func traced(t *testing.T, want string, args ...string) trace.Path {
	t.Helper()
	code, out, stderr := vpcctl(t, append([]string{"trace", "-o", "json"}, args...)...)
	var path trace.Path
	if err := json.Unmarshal([]byte(out), &path); err != nil || path.OK() != (code == 0) {
		t.Fatalf("%v: exit %d, %v: %s", args, code, err, stderr)
	}
	var names []string
	for _, f := range path.Faults {
		names = append(names, string(f.Name))
	}
	slices.Sort(names)
	if diff := cmp.Diff(want, strings.Join(slices.Compact(names), " ")); diff != "" {
		t.Errorf("%v: faults (-want +got):\n%s\n%s", args, diff, path)
	}
	return path
}
