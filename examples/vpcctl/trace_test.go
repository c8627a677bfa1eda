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

	"github.com/vpcnet/vpcnet/datapath"
)

// savedNode writes the state of a node with one pod on a secondary ENI, changed
// by breakIt, and returns the file.
func savedNode(t *testing.T, breakIt func(*saved)) string {
	t.Helper()
	n := datapath.Node{ENIs: []datapath.ENI{
		{ID: "eni-a", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 5}, Link: "ens5", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")}},
		{ID: "eni-b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 6}, Link: "ens6", Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
			Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28")}},
	}}
	pod := datapath.Pod{ContainerID: "c1", IfName: "eth0", Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: 2}}}
	system := datapath.State{
		Links:     []datapath.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", MTU: 9001, Up: true}},
		Addresses: []datapath.Address{{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.10/24")}},
		Routes: []datapath.Route{{
			Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "ens5", Table: datapath.TableMain, Protocol: 3,
		}},
		Rules: []datapath.Rule{{Priority: 0, Table: 255, Protocol: 2}, {Priority: 32766, Table: 254, Protocol: 2}},
	}
	s := saved{
		View: datapath.View{
			Node:        datapath.Join(system, n.State(), pod.HostState()),
			Desired:     &datapath.Desired{Node: n},
			Translation: parseTranslation(snatText),
		},
		Pods: []podAddr{{Addr: pod.Addrs[0].Addr, ENI: "eni-b", Namespace: "default", Pod: "web-0"}},
	}
	if breakIt != nil {
		breakIt(&s)
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

const snatText = `table inet vpcnet-snat {
	set inside {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/16,
			     192.0.2.7 }
	}
	chain source {
		oifname "ens5" ip daddr != @inside fib saddr type != local counter snat ip to 10.0.0.10 fully-random
	}
}`

func TestParseTranslation(t *testing.T) {
	got := parseTranslation(snatText)
	want := "10.0.0.10 [10.0.0.0/16 192.0.2.7/32]"
	if got == nil || got.To.String()+" ["+got.Inside[0].String()+" "+got.Inside[1].String()+"]" != want {
		t.Errorf("got %+v, want %s", got, want)
	}
	if got := parseTranslation("table inet vpcnet-snat {\n}\n"); got != nil {
		t.Errorf("no rule that translates: got %+v", got)
	}
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
	var path datapath.Path
	if err := json.Unmarshal([]byte(out), &path); err != nil || code != 3 {
		t.Fatalf("exit %d, %v, stderr %s", code, err, stderr)
	}
	if !path.Has(datapath.FaultMissingMark) || !path.Has(datapath.FaultWrongENI) || stderr != "" {
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
		{[]string{"10.0.0.113", "nowhere"}, 2, `"nowhere" is no address`},
		{[]string{"-state", file, "10.0.0.113", "2001:db8::1"}, 2, "of different families"},
		{[]string{"-ports", "80", "10.0.0.113", "8.8.8.8"}, 2, "flag provided but not defined: -ports\n("},
		{[]string{"10.0.0.113", "8.8.8.8", "-o", "xml"}, 2, "neither text nor json"},
		{[]string{"10.0.0.113", "8.8.8.8", "-port", "70000"}, 2, "70000"},
		{[]string{"-state", file, "default/none", "8.8.8.8"}, 1, "knows no pod"},
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
	if code, _, stderr := vpcctl(t, "state", "diff", bad, whole); code != 1 || !strings.Contains(stderr, "no saved state") {
		t.Errorf("bad file: exit %d, %q", code, stderr)
	}
}

// TestAgent asks an agent's introspection and puts it together with the kernel's
// state.
func TestAgent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"ready":true,"enis":[{"id":"eni-b","card":0,"device":1,"blocks":[{"prefix":"10.0.0.112/28"}]}],
			"allocations":[{"addr":"10.0.0.113","eni":"eni-b","namespace":"default","pod":"web-0"}]}`))
	}))
	defer srv.Close()
	status, err := askAgent(t.Context(), strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := load(savedNode(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	n := nodeOf(status, s.Node, "eni")
	if len(n.ENIs) != 1 || n.Layout != datapath.Flat || n.ENIs[0].Link != "ens6" || n.ENIs[0].MAC.String() != "06:00:00:00:00:06" || len(n.ENIs[0].Addrs) != 1 {
		t.Errorf("node = %+v", n)
	}
	if len(status.Allocations) != 1 || status.Allocations[0].Pod != "web-0" {
		t.Errorf("pods = %+v", status.Allocations)
	}
}
