// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// savedNode writes the state of a node with one pod on a secondary ENI to a file, after
// a change if it is not nil, and returns the name of the file.
func savedNode(t *testing.T, change func(*saved)) string {
	t.Helper()
	n := datapath.Node{ENIs: []datapath.ENI{
		{ID: "eni-a", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 5}, Link: "ens5", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")}},
		{ID: "eni-b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 6}, Link: "ens6", Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
			Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28")}},
	}}
	pod := datapath.Pod{ContainerID: "c1", IfName: "eth0", Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: 2}}}
	system := netstate.State{
		Links:     []netstate.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", MTU: 9001, Up: true}},
		Addresses: []netstate.Address{{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.10/24")}},
		Routes: []netstate.Route{{
			Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "ens5", Table: netstate.TableMain, Protocol: 3,
		}},
		Rules: []netstate.Rule{{Priority: 0, Table: 255, Protocol: 2}, {Priority: 32766, Table: 254, Protocol: 2}},
	}
	s := saved{
		View: trace.View{
			Node:    netstate.Join(system, n.State(), pod.HostState()),
			Desired: &datapath.Desired{Node: n},
			Translation: &trace.Translation{
				To: netip.MustParseAddr("10.0.0.10"), Link: "ens5", Mark: datapath.MarkPrimary, HostLinkPrefix: "eni",
				Inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
			},
		},
		Pods: []ipamd.PodStatus{{Addr: pod.Addrs[0].Addr, ENI: "eni-b", Namespace: "default", Pod: "web-0"}},
	}
	if change != nil {
		change(&s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTrace(t *testing.T) {
	file := savedNode(t, nil)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"10.0.0.113", "10.0.3.4"}, []string{"sets the mark 0x1", "sends it to ens6", "no fault found"}},
		{[]string{"default/web-0", "8.8.8.8", "-proto", "tcp", "-port", "443"}, []string{"tcp port 443", "translates the source to 10.0.0.10", "no fault found"}},
		{[]string{"10.0.0.10", "8.8.8.8"}, []string{"sends it to ens5", "no fault found"}},
	} {
		code, out, stderr := vpcctl(t, append([]string{"trace", "-state", file}, c.args...)...)
		for _, w := range c.want {
			if code != 0 || !strings.Contains(out, w) {
				t.Errorf("%v: exit %d, want %q in:\n%s%s", c.args, code, w, out, stderr)
			}
		}
	}
}

func TestTraceFault(t *testing.T) {
	file := savedNode(t, func(s *saved) { s.Node.Filter.Sources = nil })
	code, out, stderr := vpcctl(t, "trace", "-state", file, "-o", "json", "10.0.0.113", "10.0.3.4")
	var path trace.Path
	if err := json.Unmarshal([]byte(out), &path); err != nil || code != 3 {
		t.Fatalf("exit %d, %v, stderr %s", code, err, stderr)
	}
	if !path.Has(trace.FaultMissingMark) || !path.Has(trace.FaultWrongENI) || stderr != "" {
		t.Errorf("faults = %v, stderr %q", path.Faults, stderr)
	}
}

func TestTraceUsage(t *testing.T) {
	file := savedNode(t, nil)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"10.0.0.113"}, 2, "want a source and a destination"},
		{[]string{"10.0.0.113", "nowhere"}, 2, `"nowhere" is not an address`},
		{[]string{"-state", file, "10.0.0.113", "2001:db8::1"}, 2, "have different families"},
		{[]string{"-state", file, "-proto", "tpc", "10.0.0.113", "8.8.8.8"}, 2, `protocol "tpc"`},
		{[]string{"-ports", "80", "10.0.0.113", "8.8.8.8"}, 2, "flag provided but not defined: -ports\n("},
		{[]string{"10.0.0.113", "8.8.8.8", "-o", "xml"}, 2, "want text, json or yaml"},
		{[]string{"10.0.0.113", "8.8.8.8", "-port", "70000"}, 2, "70000"},
		{[]string{"-state", file, "default/none", "8.8.8.8"}, 1, "has no pod"},
		{[]string{"-state", file + "x", "10.0.0.113", "8.8.8.8"}, 1, "no such file"},
	} {
		code, _, stderr := vpcctl(t, append([]string{"trace"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit %d, stderr %q, want %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}

func TestStateDiff(t *testing.T) {
	whole := savedNode(t, nil)
	broken := savedNode(t, func(s *saved) { s.Node.Filter.Sources = nil })
	if code, out, stderr := vpcctl(t, "state", "diff", whole, whole); code != 0 || out != "" {
		t.Errorf("equal states: exit %d, %q, %q", code, out, stderr)
	}
	code, out, _ := vpcctl(t, "state", "diff", broken, whole)
	want := "nft add element inet vpcnet source4 '{ 10.0.0.112/28 : jump eni-1 }'\n"
	if diff := cmp.Diff(want, out); code != 3 || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := vpcctl(t, "state", "diff", bad, whole); code != 1 || !strings.Contains(stderr, "is not a saved state") {
		t.Errorf("bad file: exit %d, %q", code, stderr)
	}
}

// TestStateDiffParts changes the parts of the state other than the node's own state.
func TestStateDiffParts(t *testing.T) {
	route := netstate.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("169.254.1.1"), Link: "eth0", Table: netstate.TableMain, Protocol: 118}
	with := func(f func(*saved)) string {
		return savedNode(t, func(s *saved) {
			s.Sandbox = &netstate.State{Routes: []netstate.Route{route}}
			if f != nil {
				f(s)
			}
		})
	}
	whole := with(nil)
	for _, c := range []struct {
		name string
		file string
		code int
		want string
	}{
		{"nothing", with(nil), 0, ""},
		{"pod's route", with(func(s *saved) { s.Sandbox.Routes = nil }), 3, "# in the sandbox\nip -4 route del default via 169.254.1.1 dev eth0 proto 118\n"},
		{"no sandbox", with(func(s *saved) { s.Sandbox = nil }), 0, "# the sandbox is not compared: only one of the two states has it\n"},
		{"no translation", with(func(s *saved) { s.Translation = nil }), 3, `# the translation of sources
- packets that leave by ens5 get the source 10.0.0.10
- packets from eni* get the mark 0x80
- not to 10.0.0.0/16
`},
		{"no mark", with(func(s *saved) { s.Translation.Mark = 0 }), 3, "# the translation of sources\n- packets from eni* get the mark 0x80\n"},
		{"another program", with(func(s *saved) {
			s.Filters = []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}}
		}), 3, "# other programs' chains\n+ ip filter FORWARD (policy drop)\n"},
	} {
		code, out, stderr := vpcctl(t, "state", "diff", whole, c.file)
		if diff := cmp.Diff(c.want, out); code != c.code || diff != "" {
			t.Errorf("%s: exit %d, want %d, %s (-want +got):\n%s", c.name, code, c.code, stderr, diff)
		}
	}
}

// TestAgent reads the introspection of an agent.
func TestAgent(t *testing.T) {
	text := `{"ready":true,"network":{"layout":"per-pod","hostLinkPrefix":"vet","servicePrefixes":["10.9.0.0/16"],"externalSNAT":true},
		"enis":[{"id":"eni-b","mac":"06:00:00:00:00:06","card":0,"device":1,"addrs":["10.0.0.20/24"],"blocks":[{"prefix":"10.0.0.112/28"}]}],
		"allocations":[{"addr":"10.0.0.113","eni":"eni-b","namespace":"default","pod":"web-0","link":"vet1"}]}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(text)) }))
	defer srv.Close()
	ask := func() (ipamd.Status, datapath.Node, error) {
		status, err := ipamd.ReadStatus(t.Context(), strings.TrimPrefix(srv.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := status.Node()
		return status, n, err
	}
	status, n, err := ask()
	want := datapath.Node{
		Layout: datapath.PerPod, HostLinkPrefix: "vet", ServicePrefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
		ENIs: []datapath.ENI{{
			ID: "eni-b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 6}, Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
			Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28")},
		}},
	}
	if diff := cmp.Diff(want, n, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); err != nil || diff != "" {
		t.Errorf("node: %v (-want +got):\n%s", err, diff)
	}
	if len(status.Allocations) != 1 || status.Allocations[0].Pod != "web-0" || status.Allocations[0].Link != "vet1" || !status.Network.ExternalSNAT {
		t.Errorf("status = %+v", status)
	}
	text = strings.Replace(text, `"mac":"06:00:00:00:00:06",`, "", 1)
	if _, _, err := ask(); err == nil || !strings.Contains(err.Error(), "eni-b") {
		t.Errorf("agent without MAC: error %v, want one that names eni-b", err)
	}
}
