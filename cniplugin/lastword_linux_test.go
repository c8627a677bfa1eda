// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// TestDelIsLast deletes a pod and uses its sandbox at once, before the agent has swept its
// link: by the same container, another one, another interface name, and the upstream
// plugins ptp and bridge, with the same name and the same address.
func TestDelIsLast(t *testing.T) {
	upstream := pluginDir(t, "ptp")
	for _, layout := range []string{"flat", "per-pod"} {
		for _, next := range []string{"again", "container", "interface", "ptp", "ptp, other interface", "bridge"} {
			for _, agent := range []string{"sweeps", "sweeps not", "away"} {
				t.Run(layout+"/"+next+"/"+agent, func(t *testing.T) {
					n := newNode(t, ofLayout(layout))
					n.stop()
					n.noSweep, n.hold = agent == "sweeps not", make(chan struct{})
					n.start()
					testDelIsLast(t, n, upstream, next, agent == "away")
				})
			}
		}
	}
}

func testDelIsLast(t *testing.T, n *node, upstream, next string, away bool) {
	cni, list := n.runtime(upstream), n.list("1.0.0")
	rt := libcni.RuntimeConf{ContainerID: "c1", NetNS: newSandbox(t, "c1"), IfName: "eth0"}
	before := n.stateNow()
	added, err := cni.AddNetworkList(t.Context(), list, &rt)
	if err != nil {
		t.Fatal(err)
	}
	result, err := types100.NewResultFromResult(added)
	if err != nil {
		t.Fatal(err)
	}
	if away {
		n.stop()
	}
	for range 2 {
		if err := cni.DelNetworkList(t.Context(), list, &rt); err != nil {
			t.Fatal(err)
		}
	}
	if away {
		n.start()
		if stones := n.collect(); stones != 1 {
			t.Errorf("%d tombstones, want 1", stones)
		}
	}
	plugin, interfaceName, _ := strings.Cut(next, ", ")
	switch {
	case next == "container":
		rt.ContainerID = "c2"
	case next == "interface" || interfaceName != "":
		rt.IfName = "net1"
	}
	if plugin == "ptp" || plugin == "bridge" {
		list = upstreamList(t, n, plugin, result.IPs[0].Address.IP.String())
	}
	if _, err := cni.AddNetworkList(t.Context(), list, &rt); err != nil {
		t.Error("the next ADD:", err)
	}
	close(n.hold)
	n.sweeps.Wait()
	if _, err := exec.LookPath("ip"); err == nil && plugin != "bridge" && plugin != "ptp" {
		if err := cni.CheckNetworkList(t.Context(), list, &rt); err != nil {
			t.Error("CHECK after the sweep:", err)
		}
	}
	if plugin == "ptp" || plugin == "bridge" { // the second DEL of a runtime
		n.must(n.del("c1"))
		if names := sandboxLinks(t, rt.NetNS); names != rt.IfName {
			t.Errorf("after a late DEL the sandbox has the interfaces %q, want %q", names, rt.IfName)
		}
	}
	if err := cni.DelNetworkList(t.Context(), list, &rt); err != nil {
		t.Error(err)
	}
	n.sweeps.Wait()
	if plugin == "bridge" {
		deleteLink(t, "cni-test0")
	}
	if diff := cmp.Diff(before, n.stateNow()); diff != "" {
		t.Errorf("left behind: -before +after:\n%s", diff)
	}
}

// stateNow is state without the wait for sweeps.
func (n *node) stateNow() string {
	n.t.Helper()
	lines, err := kernelState()
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// upstreamList returns a list with one upstream plugin that gives the address to pods.
func upstreamList(t *testing.T, n *node, plugin, addr string) *libcni.NetworkConfigList {
	t.Helper()
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"upstream","plugins":[{
		"type":%q,"bridge":"cni-test0","ipam":{"type":"host-local","dataDir":%q,
		"ranges":[[{"subnet":"10.0.1.0/24","rangeStart":%q,"rangeEnd":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
		plugin, n.dir+"/host-local", addr, addr))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// sandboxLinks returns the names of the links of a sandbox but lo.
func sandboxLinks(t *testing.T, path string) string {
	t.Helper()
	var names []string
	inSandbox(t, path, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return strings.Join(names, " ")
}

func deleteLink(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Error(err)
	}
}

// brokenConfigs are configurations that a runtime may pass after the list on disk has
// changed. In each, %[1]s is the socket and %[2]s the state directory.
var brokenConfigs = []struct {
	name, conf string
	// failsGC means that GC cannot work with it.
	failsGC bool
}{
	{"no version", `{"name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"timeout":5}`, false},
	{"unknown version", `{"cniVersion":"9.0.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q}`, false},
	{"version is text", `{"cniVersion":"latest","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q}`, false},
	{"version is a number", `{"cniVersion":1,"name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q}`, false},
	{"version is null", `{"cniVersion":null,"name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"mtu":[]}`, false},
	{"template", `{"cniVersion":"{{ .Version }}","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"mtu":"{{ .MTU }}","vethPrefix":"{{ .Prefix }}","pluginLogLevel":"__LEVEL__","pluginLogFile":"{{ .Log }}"}`, false},
	{"types", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"timeout":60,"mtu":{"eth0":9001},"vethPrefix":7,"pluginLogFile":[],"pluginLogLevel":5,"capabilities":"all","dns":4,"type":1}`, false},
	{"ipam section", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"ipam":{"type":"host-local","ranges":"none"}}`, false},
	{"ipam is text", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"ipam":"garbage"}`, false},
	{"prevResult is text", `{"cniVersion":"9","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"prevResult":"none"}`, false},
	{"prevResult of another network", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"mtu":-1,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"192.0.2.1/24"}]}}`, false},
	{"values", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"mtu":99999999,"vethPrefix":"much-too-long","timeout":"-1s"}`, false},
	{"prefix changed", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"vethPrefix":"pod"}`, false},
	{"half written", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":%[2]q,"mtu":90`, false},
	{"list", `{"cniVersion":"1.1.0","name":"vpcnet","mtu":"x","plugins":[{"type":"vpc-cni","agentSocket":%[1]q,"stateDir":%[2]q}]}`, false},
	{"socket is a number", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":7,"stateDir":%[2]q}`, false},
	{"socket is relative", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":"agent.sock","stateDir":%[2]q}`, false},
	{"state directory is null", `{"cniVersion":"1.1.0","name":"vpcnet","agentSocket":%[1]q,"stateDir":[]}`, false},
	{"no name", `{"cniVersion":"1.1.0","agentSocket":%[1]q,"stateDir":%[2]q}`, true},
	{"name is a number", `{"cniVersion":"1.1.0","name":5,"agentSocket":%[1]q,"stateDir":%[2]q}`, true},
	{"name is a template", `{"cniVersion":"1.1.0","name":"{{ .Name }}","agentSocket":%[1]q,"stateDir":%[2]q}`, true},
	{"no object", `["vpcnet"]`, true},
	{"no JSON", "\x00\xff half", true},
	{"empty", "", true},
}

// TestBrokenConfigDel deletes a pod with configurations that ADD refuses. DEL must remove
// everything and release the addresses, and warn about what it ignores, in each verb that
// ends a pod, with and without a sandbox.
func TestBrokenConfigDel(t *testing.T) {
	isolateStateDir(t)
	// The rule of a node in the flat layout, by which the kernel finds the pods' routes.
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Family, rule.Protocol = 512, 20000, family, 2
		if err := netlink.RuleAdd(rule); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netlink.RuleDel(rule); err != nil {
				t.Error(err)
			}
		})
	}
	for _, layout := range []string{"flat", "per-pod"} {
		for _, c := range brokenConfigs {
			for _, how := range []string{"DEL", "DEL without sandbox", "GC"} {
				t.Run(layout+"/"+c.name+"/"+how, func(t *testing.T) {
					n := newNode(t, ofLayout(layout))
					newSandbox(t, "c1")
					n.must(n.add("c1"))
					conf := c.conf
					if strings.Contains(conf, "%[") {
						conf = strings.ReplaceAll(strings.ReplaceAll(conf, "%[1]q", fmt.Sprintf("%q", n.socket())), "%[2]q", fmt.Sprintf("%q", n.stateDir()))
					}
					i := invocation{"DEL", "c1", sandboxPath("c1"), "eth0", "", conf}
					switch how {
					case "DEL without sandbox":
						i.netns = ""
					case "GC":
						i = invocation{command: "GC", stdin: strings.TrimSuffix(conf, "}") + `,"cni.dev/valid-attachments":[]}`}
						if c.name == "half written" { // the list of attachments would not be readable either
							n.must(n.del("c1"))
							return
						}
					}
					out, stderr, status := n.output(i)
					if c.failsGC && how == "GC" {
						var e cniplugin.Error
						if err := json.Unmarshal(out, &e); status == 0 || err != nil {
							t.Errorf("GC without a name: exit status %d, %s", status, out)
						}
						n.must(n.del("c1"))
						return
					}
					if status != 0 || len(out) > 0 {
						t.Errorf("exit status %d: %s", status, out)
					}
					if held := n.agent.Held(); len(held) > 0 {
						t.Errorf("the agent holds %v", held)
					}
					if warned := strings.Contains(stderr, "network configuration is invalid"); warned == strings.HasPrefix(c.name, "prefix") {
						t.Errorf("warned: %t; standard error is %s", warned, stderr)
					}
				})
			}
		}
	}
}

// output executes the plugin and returns both of its outputs.
func (n *node) output(i invocation) (stdout []byte, stderr string, status int) {
	n.t.Helper()
	cmd := n.cmd(n.t.Context(), i)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return out, errs.String(), cmd.ProcessState.ExitCode()
}

// isolateStateDir mounts an empty file system over the parent of the default state
// directory.
func isolateStateDir(t *testing.T) {
	t.Helper()
	newNode(t, ofLayout("flat")).stop() // skips if there is no isolation
	const dir = "/var/lib"
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestMultus adds two interfaces to one sandbox as multus does, by separate lists: ours
// twice, and ours beside or without the default route of ptp. It compares results, CHECK
// and packets, and deletes in either order.
func TestMultus(t *testing.T) {
	upstream := pluginDir(t, "ptp")
	for _, layout := range []string{"flat", "per-pod"} {
		for _, first := range []string{"ours", "ptp", "none"} {
			for _, reverse := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/reverse %t", layout, first, reverse), func(t *testing.T) {
					n := newNode(t, ofLayout(layout))
					n.testMultus(t, upstream, first, reverse)
				})
			}
		}
	}
}

func (n *node) testMultus(t *testing.T, upstream, first string, reverse bool) {
	cni := n.runtime(upstream)
	eth0 := &libcni.RuntimeConf{ContainerID: "c1", NetNS: newSandbox(t, "c1"), IfName: "eth0"}
	net1 := &libcni.RuntimeConf{ContainerID: "c1", NetNS: eth0.NetNS, IfName: "net1"}
	lists := map[*libcni.RuntimeConf]*libcni.NetworkConfigList{net1: n.list("1.1.0")}
	switch first {
	case "ours":
		lists[eth0] = n.list("1.1.0")
	case "ptp":
		lists[eth0] = upstreamList(t, n, "ptp", "10.0.1.200")
	}
	if lists[eth0] != nil {
		if _, err := cni.AddNetworkList(t.Context(), lists[eth0], eth0); err != nil {
			t.Fatal(err)
		}
	}
	had := mainDefaults(t, eth0.NetNS)
	added, err := cni.AddNetworkList(t.Context(), lists[net1], net1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := types100.NewResultFromResult(added)
	if err != nil {
		t.Fatal(err)
	}
	table, gateways := 1, []string{"169.254.1.2", "fe80::2"}
	if first == "none" {
		table, gateways = 0, []string{"169.254.1.1", "fe80::1"}
	} else if diff := cmp.Diff(had, mainDefaults(t, eth0.NetNS)); diff != "" {
		t.Errorf("default routes in table main (-before +after):\n%s", diff)
	}
	if len(r.Interfaces) != 2 || r.Interfaces[1].Name != "net1" || len(r.IPs) != 2 || len(r.Routes) != 2 {
		t.Errorf("result %+v, want the interfaces, addresses and routes of net1", r)
	}
	for i, route := range r.Routes {
		has := 0
		if route.Table != nil {
			has = *route.Table
		}
		if r.IPs[i].Gateway.String() != gateways[i] || route.GW.String() != gateways[i] || has != table {
			t.Errorf("address %+v, route %+v in table %d, want gateway %s and table %d", r.IPs[i], route, has, gateways[i], table)
		}
	}
	check := func(rts ...*libcni.RuntimeConf) {
		t.Helper()
		for _, rt := range rts {
			if lists[rt] != nil {
				if err := cni.CheckNetworkList(t.Context(), lists[rt], rt); err != nil {
					t.Errorf("CHECK of %s: %v", rt.IfName, err)
				}
			}
		}
	}
	check(eth0, net1)
	for _, ip := range r.IPs { // the node answers by the same interface
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		if link := wayOut(t, eth0.NetNS, addr.Unmap()); link != "net1" {
			t.Errorf("packets from %v leave by %q, want net1", addr, link)
		}
	}
	order := []*libcni.RuntimeConf{eth0, net1}
	if reverse {
		order = []*libcni.RuntimeConf{net1, eth0}
	}
	for i, rt := range order {
		if lists[rt] == nil {
			continue
		}
		if err := cni.DelNetworkList(t.Context(), lists[rt], rt); err != nil {
			t.Errorf("DEL of %s: %v", rt.IfName, err)
		}
		check(order[i+1:]...)
	}
	n.sweeps.Wait()
	if names := sandboxLinks(t, eth0.NetNS); names != "" {
		t.Errorf("the sandbox has the interfaces %q, want none", names)
	}
	inSandbox(t, eth0.NetNS, func(h *netlink.Handle) error {
		rules, err := h.RuleList(netlink.FAMILY_ALL)
		for _, r := range rules {
			if r.Table < unix.RT_TABLE_DEFAULT {
				t.Errorf("rule %v stays", r)
			}
		}
		return err
	})
}

// mainDefaults returns the default routes in table main of a sandbox.
func mainDefaults(t *testing.T, path string) (routes []string) {
	t.Helper()
	inSandbox(t, path, func(h *netlink.Handle) error {
		all, err := h.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range all {
			if ones := 0; r.Dst != nil {
				if ones, _ = r.Dst.Mask.Size(); ones > 0 {
					continue
				}
			}
			routes = append(routes, r.String())
		}
		return err
	})
	return routes
}

// wayOut returns the name of the link by which a sandbox sends packets from an address.
func wayOut(t *testing.T, path string, from netip.Addr) (name string) {
	t.Helper()
	to := netip.MustParseAddr("198.51.100.9")
	if from.Is6() {
		to = netip.MustParseAddr("2001:db8:99::9")
	}
	inSandbox(t, path, func(h *netlink.Handle) error {
		routes, err := h.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.AsSlice()})
		if err != nil || len(routes) == 0 {
			return err
		}
		link, err := h.LinkByIndex(routes[0].LinkIndex)
		if err == nil {
			name = link.Attrs().Name
		}
		return err
	})
	return name
}
