// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// limited gives the pod of savedNode a class.
func limited(t *testing.T) func(*saved) {
	return func(s *saved) {
		web, err := policy.Compile(policy.Class{Ingress: policy.Rules{Isolated: true, Allow: []policy.Rule{
			{Peers: []policy.Block{{Prefix: netip.MustParsePrefix("10.0.3.0/24")}}, Ports: []policy.Ports{{Protocol: policy.TCP, First: 80, Last: 81}}},
			{Peers: []policy.Block{{Prefix: netip.MustParsePrefix("10.0.9.9/32")}}, Ports: []policy.Ports{{}}},
		}}, Egress: policy.Rules{Isolated: true}})
		if err != nil {
			t.Fatal(err)
		}
		s.Policies = &trace.Policies{State: policy.State{
			Classes: map[string]policy.Compiled{"web": web}, Pods: map[netip.Addr]string{s.Pods[0].Addr: "web"},
		}}
		s.Denied = []policy.Denied{{Class: "web", Direction: policy.Ingress, Packets: 7}, {Class: "web", Direction: policy.Egress}}
	}
}

func TestPolicy(t *testing.T) {
	file := savedNode(t, limited(t))
	code, out, stderr := vpcctl(t, "policy", "-state", file, "default/web-0")
	want := `pod default/web-0, class web

from: only (7 packets denied by the class)
  PEERS         PORTS
  10.0.3.0/24   tcp 80-81
  10.0.9.9      any

to: nothing (0 packets denied by the class)
`
	if diff := cmp.Diff(want, out); code != 0 || diff != "" {
		t.Errorf("exit %d, %s (-want +got):\n%s", code, stderr, diff)
	}
	code, out, stderr = vpcctl(t, "policy", "-state", file, "-o", "json", "10.0.0.113")
	for _, w := range []string{`"class": "web"`, `"peers": "10.0.3.0/24"`, `"ports": "tcp 80-81"`, `"deniedPackets": 7`} {
		if code != 0 || !strings.Contains(out, w) {
			t.Errorf("exit %d, %s, want %s in:\n%s", code, stderr, w, out)
		}
	}
	if code, out, _ = vpcctl(t, "policy", "-state", file, "10.0.0.114"); code != 0 || !strings.Contains(out, "class none\n\nfrom: everything\n\nto: everything\n") {
		t.Errorf("a pod without a class: exit %d:\n%s", code, out)
	}
	if code, out, _ = vpcctl(t, "trace", "-state", file, "default/web-0", "10.0.3.4"); code != 3 || !strings.Contains(out, "FAULT policy-denied: class web of 10.0.0.113 denies egress to 10.0.3.4") {
		t.Errorf("trace: exit %d:\n%s", code, out)
	}
	if code, out, _ = vpcctl(t, "state", "diff", savedNode(t, nil), file); code != 3 || !strings.Contains(out, "# network policies\n+ the table inet vpcnet-policy") {
		t.Errorf("diff: exit %d:\n%s", code, out)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-state", file}, 2, "want a pod"},
		{[]string{"-state", file, "-o", "xml", "10.0.0.113"}, 2, "want text, json or yaml"},
		{[]string{"-state", file, "default/none"}, 1, `no pod "default/none"`},
		{[]string{"-state", savedNode(t, nil), "default/web-0"}, 1, "no table of network policies"},
		{[]string{"-state", savedNode(t, func(s *saved) { limited(t)(s); s.Policies.Odd = true }), "default/web-0"}, 1, "another program has changed"},
	} {
		code, _, stderr := vpcctl(t, append([]string{"policy"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit %d, stderr %q, want %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}
