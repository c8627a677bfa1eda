// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// strict has the functions of the CNI library that parse a result, by version. They
// refuse fields that the version does not have.
var strict = map[string]func([]byte) (types.Result, error){
	"0.1.0": types020.NewResult,
	"0.2.0": types020.NewResult,
	"0.3.0": types040.NewResult,
	"0.3.1": types040.NewResult,
	"0.4.0": types040.NewResult,
	"1.0.0": types100.NewResult,
	"1.1.0": types100.NewResult,
}

func TestAddWiring(t *testing.T) {
	w := datapath.Pod{
		ContainerID: "c1", IfName: "eth0", MTU: 9001,
		Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.5")}, {Addr: netip.MustParseAddr("2001:db8::5")}},
	}.Wiring()
	const prev = `{
		"interfaces": [{"name": "net0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/c1", "pciID": "0000:00:1f.6"}],
		"ips": [{"address": "192.168.0.9/24", "gateway": "192.168.0.1", "interface": 0}],
		"routes": [{"dst": "192.168.0.0/16", "priority": 7}],
		"dns": {"nameservers": ["192.168.0.2"]}
	}`
	// Before 0.3.0 a result has one address of each family: that of the earlier plugin.
	const oldPrev = `{
		"ip4": {"ip": "192.168.0.9/24", "gateway": "192.168.0.1", "routes": [{"dst": "192.168.0.0/16"}]},
		"dns": {"nameservers": ["192.168.0.2"]}
	}`
	for _, version := range supportedVersions {
		for name, prev := range map[string]string{"alone": "", "chained": prev} {
			t.Run(version+"/"+name, func(t *testing.T) {
				if prev != "" && !supports(version, versionOfInterfaces) {
					prev = oldPrev
				}
				p, err := parsePrevResult(json.RawMessage(prev), version)
				if err != nil {
					t.Fatal(err)
				}
				r, err := p.add(resultOf(w, "/run/netns/c1"), version)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if err := r.write(&got, version); err != nil {
					t.Fatal(err)
				}
				golden(t, "result-"+version+"-"+name+".json", got.Bytes())
				if strict[version] == nil {
					t.Fatalf("this test has no parser for version %s", version)
				}
				lib, err := strict[version](got.Bytes())
				if err != nil {
					t.Fatalf("the CNI library refuses the result: %v", err)
				}
				if _, err := lib.GetAsVersion(newestVersion); err != nil {
					t.Errorf("the CNI library cannot convert the result: %v", err)
				}
			})
		}
	}
}

func TestFind(t *testing.T) {
	w := datapath.Pod{ContainerID: "c1", IfName: "eth0", Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.5")}}}.Wiring()
	r, err := result{}.add(resultOf(w, "/run/netns/c1"), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	// Entries that a later plugin adds are ignored, valid or not.
	for _, other := range []string{`7`, `{"name":"ifb0"}`, `{"name":"eth0","sandbox":"/run/netns/other"}`} {
		r.Interfaces = append([]json.RawMessage{}, append(r.Interfaces, json.RawMessage(other))...)
		r.IPs = append(r.IPs, json.RawMessage(other))
	}
	for _, netns := range []string{"/run/netns/c1", ""} {
		a, found := r.find(w.HostLink, "eth0", "/run/netns/c1")
		want := []netip.Addr{netip.MustParseAddr("10.0.1.5")}
		if diff := cmp.Diff(want, a.addrs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); !found || diff != "" {
			t.Errorf("in %q: found %v, -want +got:\n%s", netns, found, diff)
		}
		if a.inside.MAC != w.SandboxMAC.String() || a.host.MAC != w.HostMAC.String() {
			t.Errorf("in %q: MACs %s, %s, want %s, %s", netns, a.host.MAC, a.inside.MAC, w.HostMAC, w.SandboxMAC)
		}
	}
	if _, found := r.find("eniffffffffff0", "eth0", ""); found {
		t.Error("found an attachment that the result does not have")
	}
}

func TestParseArgs(t *testing.T) {
	for in, want := range map[string]arguments{
		"":                {},
		"IgnoreUnknown=1": {},
		"K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c": {pod: Pod{"default", "web-0", "u-1"}},
		"K8S_POD_UID=u-1;;K8S_POD_NAME=web-0;FOO=a=b;IgnoreUnknown=TRUE;":                           {pod: Pod{"", "web-0", "u-1"}},
		"IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.1.5;MAC=02:00:00:00:00:01":                        {pod: Pod{Name: "web"}, ip: "10.0.1.5", mac: "02:00:00:00:00:01"},
		"IP=;MAC=": {},
	} {
		got, err := parseArgs(in)
		if got != want || err != nil {
			t.Errorf("%q: %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, text := range map[string]string{
		"K8S_POD_NAME": `"K8S_POD_NAME" is not KEY=VALUE`, "=x": `"=x" is not KEY=VALUE`, "IgnoreUnknown=1;c": `"c" is not KEY=VALUE`,
		"FOO=1;K8S_POD_NAME=web;BAR=2":   `unknown "FOO, BAR"; want only IP, MAC, IgnoreUnknown and K8S_POD_*, or IgnoreUnknown=1`,
		"FOO=1;IgnoreUnknown=0":          `unknown "FOO"`,
		"ip=10.0.1.5":                    `unknown "ip"`,
		"IgnoreUnknown=yes;K8S_POD_UID=": `IgnoreUnknown is "yes"; want 1, true, 0 or false`,
	} {
		if _, err := parseArgs(in); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("parseArgs(%q): %v, want %q in the error", in, err, text)
		}
	}
	if got, err := parseArgs("FOO=1;K8S_POD_NAME=web"); err == nil || got.pod.Name != "web" {
		t.Errorf("the pod is %v after %v, want its name for the log", got.pod, err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: -want +got:\n%s", path, diff)
	}
}
