// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// conf returns c with the defaults of ParseNetConf in its empty fields.
func conf(version, name string, c cniplugin.NetConf) cniplugin.NetConf {
	c.CNIVersion, c.Name, c.Type = version, name, "vpc-cni"
	c.AgentSocket = cmp.Or(c.AgentSocket, "/run/vpcnet/agent.sock")
	c.StateDir = cmp.Or(c.StateDir, "/var/lib/vpcnet")
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.VethPrefix = cmp.Or(c.VethPrefix, "eni")
	c.LogFile = cmp.Or(c.LogFile, "stderr")
	c.LogLevel = cmp.Or(c.LogLevel, "warn")
	return c
}

func TestParseNetConf(t *testing.T) {
	const head = `{"cniVersion":"1.0.0","name":"vpcnet","type":"vpc-cni"`
	for _, tc := range []struct {
		name, in string
		want     cniplugin.NetConf
		code     cniplugin.Code // 0: no error
		text     string         // part of the error
	}{
		{name: "least", in: head + `}`, want: conf("1.0.0", "vpcnet", cniplugin.NetConf{})},
		{
			name: "all",
			in: head + `,"agentSocket":"/a","stateDir":"/s","timeout":"90s","vethPrefix":"vpc","mtu":1500,
				"pluginLogFile":"/l","pluginLogLevel":"DEBUG","prevResult":{"ips":[{"address":"10.0.0.1/8"}]},
				"capabilities":{"mac":true},"dns":{"domain":"d"},"cni.dev/valid-attachments":[{"containerID":"c","ifname":"e"}]}`,
			want: conf("1.0.0", "vpcnet", cniplugin.NetConf{
				PluginConf: types.PluginConf{
					Capabilities: map[string]bool{"mac": true}, DNS: types.DNS{Domain: "d"},
					PrevResult: &types100.Result{
						CNIVersion: "1.0.0",
						IPs:        []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}},
					},
					ValidAttachments: []types.GCAttachment{{ContainerID: "c", IfName: "e"}},
				},
				AgentSocket: "/a", StateDir: "/s", Timeout: 90 * time.Second, VethPrefix: "vpc", MTU: 1500,
				LogFile: "/l", LogLevel: "DEBUG",
			}),
		},
		{
			name: "written for amazon-vpc-cni-k8s",
			in: `{"cniVersion":"0.4.0","name":"aws-cni","type":"vpc-cni","vethPrefix":"eni","mtu":"9001","podSGEnforcingMode":"strict",
				"pluginLogFile":"/var/log/aws-routed-eni/plugin.log",
				"capabilities":{"io.kubernetes.cri.pod-annotations":true},"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}}}`,
			want: conf("0.4.0", "aws-cni", cniplugin.NetConf{
				PluginConf: types.PluginConf{Capabilities: map[string]bool{"io.kubernetes.cri.pod-annotations": true}},
				MTU:        9001, Enforcement: "strict", LogFile: "/var/log/aws-routed-eni/plugin.log", LogLevel: "info",
			}),
		},
		{name: "empty ipam and mtu", in: head + `,"ipam":{},"mtu":"","prevResult":null}`, want: conf("1.0.0", "vpcnet", cniplugin.NetConf{})},
		{
			name: "ipam", in: head + `,"ipam":{"type":"host-local"}}`, // the plugin without an Allocator refuses it
			want: conf("1.0.0", "vpcnet", cniplugin.NetConf{PluginConf: types.PluginConf{IPAM: types.IPAM{Type: "host-local"}}}),
		},
		{name: "no version", in: `{"name":"vpcnet","type":"vpc-cni"}`, want: conf("0.1.0", "vpcnet", cniplugin.NetConf{})},

		{name: "nothing", in: "", code: 6, text: "no network configuration"},
		{name: "no JSON", in: "hello", code: 6, text: "not a JSON object"},
		{name: "cut off", in: head, code: 6, text: "not a JSON object"},
		{name: "array", in: "[]", code: 6, text: "not a JSON object"},
		{name: "unknown version", in: `{"cniVersion":"0.0.9","mtu":"big"}`, code: 1, text: "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"},
		{name: "future version", in: `{"cniVersion":"9.0.0","name":7}`, code: 1, text: "9.0.0"},
		{name: "no name", in: `{"cniVersion":"1.0.0"}`, code: 7, text: "name"},
		{name: "bad name", in: `{"cniVersion":"1.0.0","name":"a/b"}`, code: 7, text: `"a/b"`},
		{name: "ipam of another type", in: head + `,"ipam":"x"}`, code: 6, text: "cannot be read"},
		{name: "result of another type", in: head + `,"prevResult":7}`, code: 6, text: "prevResult"},
		{name: "null in a result", in: head + `,"prevResult":{"ips":[null]}}`, code: 6, text: "an entry of a list is null"},
		{name: "long name", in: `{"cniVersion":"1.0.0","name":"` + strings.Repeat("n", 1025) + `"}`, code: 7, text: "it has 1025 bytes, want at most 1024"},
		{name: "long socket", in: head + `,"agentSocket":"/` + strings.Repeat("s", 107) + `"}`, code: 7, text: "the path has 108 bytes, want at most 107"},
		{name: "socket of another type", in: head + `,"agentSocket":7}`, code: 6, text: "agentSocket"},
		{name: "relative socket", in: head + `,"agentSocket":"agent.sock"}`, code: 7, text: `agentSocket "agent.sock"`},
		{name: "relative state", in: head + `,"stateDir":"x"}`, code: 7, text: `stateDir "x"`},
		{name: "relative log", in: head + `,"pluginLogFile":"x"}`, code: 7, text: `pluginLogFile "x"`},
		{name: "log level", in: head + `,"pluginLogLevel":"loud"}`, code: 7, text: `pluginLogLevel "loud"`},
		{name: "timeout", in: head + `,"timeout":"soon"}`, code: 6, text: `timeout "soon"`},
		{name: "negative timeout", in: head + `,"timeout":"-1s"}`, code: 7, text: `timeout "-1s"`},
		{name: "mtu text", in: head + `,"mtu":"big"}`, code: 6, text: `mtu "big"`},
		{name: "mtu small", in: head + `,"mtu":"67"}`, code: 7, text: `mtu "67"; MTU 67, want 68 to 65535`},
		{name: "mtu large", in: head + `,"mtu":70000}`, code: 7, text: `mtu "70000"`},
		{name: "prefix long", in: head + `,"vethPrefix":"pods5"}`, code: 7, text: `vethPrefix "pods5"; host link prefix "pods5" has 5 bytes, want 1 to 4`},
		{name: "prefix with slash", in: head + `,"vethPrefix":"a/b"}`, code: 7, text: `vethPrefix "a/b"; host link prefix "a/b" may contain only a-z and 0-9`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := cniplugin.ParseNetConf([]byte(tc.in))
			if tc.code != 0 {
				var e *cniplugin.Error
				if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("error = %#v, want code %d and %q in it", err, tc.code, tc.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// FuzzParseNetConf checks that any input gives either a configuration that is the
// same after marshalling and parsing it again, or an error with a code of the
// specification and a message.
func FuzzParseNetConf(f *testing.F) {
	for _, s := range []string{
		"", "{}", "[]", `{"cniVersion":"1.0.0","name":"vpcnet"}`, `{"cniVersion":"1.1.0","name":"n","mtu":"9001","timeout":"1h2m"}`,
		`{"cniVersion":"0.4.0","name":"n","ipam":{"type":"x"}}`, `{"cniVersion":"0.3.1","name":"n","prevResult":{"ips":[]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := cniplugin.ParseNetConf(in)
		if err != nil {
			var e *cniplugin.Error
			if !errors.As(err, &e) || e.Code == 0 || e.Code > 7 || e.Msg == "" {
				t.Fatalf("error %#v, want one with a code of the specification and a message", err)
			}
			return
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := cniplugin.ParseNetConf(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := gocmp.Diff(got, again); diff != "" {
			t.Errorf("%s: -first +second:\n%s", b, diff)
		}
	})
}
