// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
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
	for in, want := range map[string]Pod{
		"":                {},
		"IgnoreUnknown=1": {},
		"K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c": {"default", "web-0", "u-1"},
		"K8S_POD_UID=u-1;;K8S_POD_NAME=web-0;FOO=a=b;":                                              {"", "web-0", "u-1"},
	} {
		got, err := parseArgs(in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v, -want +got:\n%s", in, err, diff)
		}
	}
	for _, in := range []string{"K8S_POD_NAME", "=x", "a=b;c"} {
		if _, err := parseArgs(in); err == nil {
			t.Errorf("parseArgs(%q) succeeds, want an error", in)
		}
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
