// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

// recorder is an agent that keeps the last AddRequest. If it is deaf, it is of a release
// that ignores the fields which runtimes can set.
type recorder struct {
	*servertest.Agent
	deaf bool

	mu   sync.Mutex
	last cniplugin.AddRequest
}

func (r *recorder) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = req
	if r.deaf {
		req.Addrs = nil
	}
	return r.Agent.Add(ctx, req)
}

func record(n *node) *recorder {
	r := &recorder{Agent: n.agent}
	n.backend = r
	n.stop()
	n.start()
	return r
}

// asked is one value that a runtime or an operator can give, and what becomes of it.
type asked struct {
	name, args, fields string

	code cniplugin.Code // 0: honoured
	text string         // part of the error

	addrs       string // AddRequest.Addrs
	mac         string // AddRequest.MAC, and that of the interface
	annotations map[string]string
	mtu         int // of the interface; 0 means that of the agent
}

const (
	ips    = `"runtimeConfig":{"ips":[%s]}`
	envIP  = "IP=10.0.1.77"
	envMAC = "MAC=00:16:3E:00:00:07"
)

var askedFor = []asked{
	{name: "nothing"},
	{name: "nothing in all fields", args: "IP=;MAC=", fields: `"args":null,"runtimeConfig":{"ips":[],"mac":"","portMappings":[],"bandwidth":{},"dns":null},"mtu":"","podSGEnforcingMode":"","enabled":""`},

	{name: "IP", args: envIP, addrs: "10.0.1.77"},
	{name: "IP with length", args: "IgnoreUnknown=1;IP=10.0.1.77/24;GATEWAY=10.0.1.1", addrs: "10.0.1.77"},
	{name: "IP of both families", args: "IP=2001:db8::77,10.0.1.77", addrs: "2001:db8::77 10.0.1.77"},
	{name: "ips", fields: fmt.Sprintf(ips, `"10.0.1.77","2001:db8::77/64"`), addrs: "10.0.1.77 2001:db8::77"},
	{name: "args.cni.ips", fields: `"args":{"labels":["x"],"cni":{"ips":["10.0.1.77"],"labels":{}}}`, addrs: "10.0.1.77"},
	{name: "ips precede IP", args: envIP, fields: fmt.Sprintf(ips, `"10.0.1.78"`), addrs: "10.0.1.78"},
	{name: "args.cni.ips precede IP", args: envIP, fields: `"args":{"cni":{"ips":["10.0.1.79"]}}`, addrs: "10.0.1.79"},
	{name: "ips precede args.cni.ips", fields: fmt.Sprintf(ips, `"10.0.1.78"`) + `,"args":{"cni":{"ips":["10.0.1.79"]}}`, addrs: "10.0.1.78"},
	{name: "IP is text", args: "IP=any", code: 4, text: `CNI_ARGS IP "any"; want a unicast address such as 10.0.1.5`},
	{name: "IP is multicast", args: "IP=224.0.0.1", code: 4, text: `CNI_ARGS IP "224.0.0.1"`},
	{name: "IP twice", args: "IP=10.0.1.7,10.0.1.8", code: 4, text: "want at most one address of each family"},
	{name: "ips with zone", fields: fmt.Sprintf(ips, `"fe80::1%eth0"`), code: 7, text: `runtimeConfig.ips "fe80::1%eth0"`},
	{name: "ips is a text", fields: `"runtimeConfig":{"ips":"10.0.1.77"}`, code: 6, text: "runtimeConfig.ips cannot be read; want a list of texts"},
	{name: "args.cni.ips is empty text", fields: `"args":{"cni":{"ips":[""]}}`, code: 7, text: `args.cni.ips ""`},
	{name: "args.cni.ips is a text", fields: `"args":{"cni":{"ips":"10.0.1.77"}}`, code: 6, text: "args cannot be read; want an object such as"},
	{name: "invalid although another precedes", args: "IP=any", fields: fmt.Sprintf(ips, `"10.0.1.78"`), code: 4, text: "CNI_ARGS IP"},
	{name: "IP of another network", args: "IP=192.0.2.7", code: 11, text: "no-such-address: 192.0.2.7 cannot be given"},

	{name: "MAC", args: envMAC, mac: "00:16:3e:00:00:07"},
	{name: "mac", fields: `"runtimeConfig":{"mac":"02-00-00-00-00-08"}`, mac: "02:00:00:00:00:08"},
	{name: "args.cni.mac", fields: `"args":{"cni":{"mac":"02:00:00:00:00:09"}}`, mac: "02:00:00:00:00:09"},
	{name: "mac precedes MAC", args: envMAC, fields: `"runtimeConfig":{"mac":"02:00:00:00:00:08"},"args":{"cni":{"mac":"02:00:00:00:00:09"}}`, mac: "02:00:00:00:00:08"},
	{name: "MAC is text", args: "MAC=any", code: 4, text: `CNI_ARGS MAC "any"; want six bytes in hexadecimal`},
	{name: "MAC is multicast", args: "MAC=01:00:5e:00:00:01", code: 4, text: `CNI_ARGS MAC "01:00:5e:00:00:01"; MAC 01:00:5e:00:00:01 is a multicast address`},
	{name: "mac is zero", fields: `"runtimeConfig":{"mac":"00:00:00:00:00:00"}`, code: 7, text: `runtimeConfig.mac "00:00:00:00:00:00"; MAC 00:00:00:00:00:00 is zero`},
	{name: "mac is long", fields: `"runtimeConfig":{"mac":"02:00:00:00:00:00:00:01"}`, code: 7, text: "has 8 bytes, want 6"},
	{name: "mac is a number", fields: `"runtimeConfig":{"mac":2}`, code: 6, text: "runtimeConfig.mac cannot be read; want a text"},

	{name: "annotations", fields: `"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"k8s.amazonaws.com/nicConfig":"multi"}}`, annotations: map[string]string{"k8s.amazonaws.com/nicConfig": "multi"}},
	{name: "most annotations", fields: `"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"` + strings.Repeat(`\u0001`, 256<<10-1) + `"}}`, annotations: map[string]string{"a": strings.Repeat("\x01", 256<<10-1)}},
	{name: "too many annotations", fields: `"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"` + strings.Repeat("v", 256<<10) + `"}}`, code: 7, text: "runtimeConfig.io.kubernetes.cri.pod-annotations; the annotations have 262145 bytes, want at most 262144"},
	{name: "annotations of numbers", fields: `"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}`, code: 6, text: "runtimeConfig.io.kubernetes.cri.pod-annotations cannot be read; want an object of texts"},

	{name: "portMappings", fields: `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80}]}`, code: 2, text: "runtimeConfig.portMappings is not supported; the chained plugin portmap does this"},
	{name: "bandwidth", fields: `"runtimeConfig":{"bandwidth":{"ingressRate":1}}`, code: 2, text: "the chained plugin bandwidth does this"},
	{name: "ipRanges", fields: `"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.0.0/8"}]]}`, code: 2, text: "runtimeConfig.ipRanges is not supported; want only ips, mac, securityGroups and io.kubernetes.cri.pod-annotations"},
	{name: "infinibandGUID", fields: `"runtimeConfig":{"infinibandGUID":"24:8a"}`, code: 2, text: "runtimeConfig.infinibandGUID"},
	{name: "runtimeConfig is a list", fields: `"runtimeConfig":[1]`, code: 6, text: "runtimeConfig cannot be read; want an object"},

	{name: "unknown argument", args: "FOO=1", code: 4, text: `unknown "FOO"; want only IP, MAC, IgnoreUnknown and K8S_POD_*`},
	{name: "unknown argument, ignored", args: "IgnoreUnknown=true;FOO=1;IP=10.0.1.77", addrs: "10.0.1.77"},
	{name: "IgnoreUnknown is text", args: "IgnoreUnknown=maybe", code: 4, text: "want 1, true, 0 or false"},

	{name: "mtu is text", fields: `"mtu":"1400"`, mtu: 1400},
	{name: "mtu is a number", fields: `"mtu":1400`, mtu: 1400},
	{name: "mtu is a word", fields: `"mtu":"jumbo"`, code: 6, text: `mtu "jumbo" is not a whole number, want 68 to 65535`},
	{name: "mtu is too small", fields: `"mtu":"67"`, code: 7, text: "MTU 67, want 68 to 65535"},
	{name: "podSGEnforcingMode strict", fields: `"podSGEnforcingMode":"strict"`},
	{name: "podSGEnforcingMode standard", fields: `"podSGEnforcingMode":"standard"`},
	{name: "mode eni with groups", fields: `"mode":"eni","securityGroups":["sg-0a","sg-0b"]`},
	{name: "capability securityGroups", fields: `"securityGroups":["sg-0a"],"runtimeConfig":{"securityGroups":["sg-0b"]}`},
	{name: "mode of others", fields: `"mode":"macvlan"`, code: 7, text: `mode "macvlan"; want eni, ipvlan or bridge, or no mode`},
	{name: "groups of a bridge", fields: `"mode":"bridge","securityGroups":["sg-0a"]`, code: 7, text: `securityGroups "sg-0a"; want none with mode bridge, whose pods share an ENI`},
	{name: "groups that are not IDs", fields: `"securityGroups":["web"]`, code: 7, text: `securityGroups "web"; want the ID of a security group such as sg-0123456789abcdef0`},
	{name: "groups twice", fields: `"runtimeConfig":{"securityGroups":["sg-0a","sg-0a"]}`, code: 7, text: `runtimeConfig.securityGroups "sg-0a"; the group is there twice`},
	{name: "podSGEnforcingMode of others", fields: `"podSGEnforcingMode":"lax"`, code: 7, text: `podSGEnforcingMode "lax"; want strict or standard`},
	{name: "vethPrefix of others", fields: `"vethPrefix":"pods5"`, code: 7, text: `vethPrefix "pods5"`},
	{name: "pluginLogFile stdout", fields: `"pluginLogFile":"stdout"`, code: 7, text: `pluginLogFile "stdout"; want an absolute path, or stderr`},
	{name: "pluginLogLevel Debug", fields: `"pluginLogLevel":"Debug"`},
	{name: "pluginLogLevel fatal", fields: `"pluginLogLevel":"Fatal"`},
	{name: "pluginLogLevel of others", fields: `"pluginLogLevel":"trace"`, code: 7, text: `pluginLogLevel "trace"; want debug, info, warn, error or fatal`},
	{name: "enabled", fields: `"enabled":"true"`, code: 2, text: "field enabled"},
	{name: "randomizeSNAT", fields: `"randomizeSNAT":"prng"`, code: 2, text: "field randomizeSNAT"},
	{name: "nodeIP", fields: `"nodeIP":"10.0.0.1"`, code: 2, text: "field nodeIP: "},
	{name: "unknown field", fields: `"someFutureField":{"a":1}`},
}

// TestAsked gives the plugin each value. An honoured one is in the request to the agent,
// in the result and in the kernel; the error of a refused one names it and the values that
// are valid. DEL succeeds in any case in which ADD did.
func TestAsked(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	agent := record(n)
	newSandbox(t, "c1")
	for _, a := range askedFor {
		t.Run(a.name, func(t *testing.T) {
			var fields []string
			if a.fields != "" {
				fields = append(fields, a.fields)
			}
			before := n.state()
			add := invocation{"ADD", "c1", sandboxPath("c1"), "eth0", a.args, n.conf("1.1.0", fields...)}
			out, status := n.run(add)
			expect(t, badInput{code: a.code, text: a.text}, status, out)
			if a.code == 0 {
				n.checkAsked(t, a, agent, out)
				again := n.must(add)
				if string(again) != string(out) {
					t.Errorf("the second ADD gives %s, want %s", again, out)
				}
				check := add
				check.command, check.stdin = "CHECK", n.conf("1.1.0", append(fields, `"prevResult":`+string(out))...)
				n.must(check)
				del := add
				del.command = "DEL"
				n.must(del)
			}
			if diff := cmp.Diff(before, n.state()); diff != "" {
				t.Errorf("left behind: -before +after:\n%s", diff)
			}
		})
	}
	// A DEL does not read what it does not need.
	n.must(invocation{"DEL", "c1", sandboxPath("c1"), "eth0", "IP=any;FOO=1", n.conf("1.1.0", `"runtimeConfig":{"mac":7}`)})
}

// checkAsked checks what became of an honoured value.
func (n *node) checkAsked(t *testing.T, a asked, agent *recorder, out []byte) {
	t.Helper()
	var addrs []netip.Addr
	for _, s := range strings.Fields(a.addrs) {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	got := agent.last
	if diff := cmp.Diff(addrs, got.Addrs, cmpopts.EquateComparable(netip.Addr{})); diff != "" || got.MAC != a.mac || !maps.Equal(got.Annotations, a.annotations) {
		t.Errorf("AddRequest %.200v, want addresses %v, MAC %q and annotations", got, addrs, a.mac)
	}
	var result types100.Result
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if !strings.Contains(string(out), `"`+addr.String()+"/") {
			t.Errorf("result %s lacks %v", out, addr)
		}
	}
	link := sandboxLink(t, sandboxPath("c1"), "eth0")
	mac := result.Interfaces[1].Mac
	if link.HardwareAddr.String() != mac || a.mac != "" && mac != a.mac {
		t.Errorf("the interface has MAC %s, the result %s, want %q", link.HardwareAddr, mac, a.mac)
	}
	want := a.mtu
	if want == 0 {
		want = 9001
	}
	if link.MTU != want || result.Interfaces[1].Mtu != want {
		t.Errorf("the interface has MTU %d, the result %d, want %d", link.MTU, result.Interfaces[1].Mtu, want)
	}
}

// TestAskedByLibcni passes addresses, MAC and MTU as podman and multus do: by CNI_ARGS and
// by the capabilities of the list, through the CNI library.
func TestAskedByLibcni(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	agent := record(n)
	list, err := libcni.ConfListFromBytes([]byte(`{"cniVersion":"1.1.0","name":"vpcnet","plugins":[` +
		n.conf("1.1.0", `"mtu":"1400"`, `"capabilities":{"ips":true,"mac":true}`) + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	rt := &libcni.RuntimeConf{
		ContainerID: "c1", NetNS: newSandbox(t, "c1"), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web"}, {"IP", "10.0.1.77"}, {"MAC", "02:00:00:00:00:08"}},
		CapabilityArgs: map[string]any{
			"ips": []string{"10.0.1.77", "2001:db8::77"}, "mac": "02:00:00:00:00:08",
			"portMappings": []map[string]any{{"hostPort": 80, "containerPort": 80}}, // not in the list's capabilities
			"aliases":      map[string][]string{"vpcnet": {"web"}},
		},
	}
	for range 2 { // as podman network reload: DEL, then ADD of the same container
		added, err := n.runtime().AddNetworkList(t.Context(), list, rt)
		if err != nil {
			t.Fatal("ADD:", err)
		}
		out, err := json.Marshal(added)
		if err != nil {
			t.Fatal(err)
		}
		n.checkAsked(t, asked{addrs: "10.0.1.77 2001:db8::77", mac: "02:00:00:00:00:08", mtu: 1400}, agent, out)
		if err := n.runtime().CheckNetworkList(t.Context(), list, rt); err != nil {
			t.Error("CHECK:", err)
		}
		other := *rt
		other.ContainerID, other.NetNS = "c2", newSandbox(t, "c2")
		if _, err := n.runtime().AddNetworkList(t.Context(), list, &other); err == nil || !strings.Contains(err.Error(), "in-use: 10.0.1.77 cannot be given") {
			t.Errorf("another container gets the address: %v", err)
		}
		if err := n.runtime().DelNetworkList(t.Context(), list, rt); err != nil {
			t.Fatal("DEL:", err)
		}
		removeSandbox(t, "c2")
	}
}

// TestIgnoredRequest: ADD fails, and is undone, if an agent or a Wiring does not do what the
// runtime asks for.
func TestIgnoredRequest(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	record(n).deaf = true
	newSandbox(t, "c1")
	before := n.state()
	add := n.add("c1")
	add.args = envIP
	out, status := n.run(add)
	expect(t, badInput{code: cniplugin.CodeAgent, text: "agent-protocol: the pod did not get the address 10.0.1.77"}, status, out)
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("left behind: -before +after:\n%s", diff)
	}

	m := new(minimal)
	text, status := m.main(t, "ADD", "1.1.0", `,"runtimeConfig":{"mac":"02:00:00:00:00:08"}`)
	expect(t, badInput{code: cniplugin.CodeUnsupportedField, text: "eth0 did not get the MAC 02:00:00:00:00:08"}, status, []byte(text))
	if got := strings.Join(m.calls, " "); !strings.Contains(got, "unwire") {
		t.Errorf("calls %s, want the wiring undone", got)
	}
}
