// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
)

// TestObserveForeign reads rules and routes that this package does not make, and
// whose text iproute2 takes back.
func TestObserveForeign(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("needs the program ip: %v", err)
	}
	l := newLab(t, datapath.Flat)
	script := []string{
		"ip -4 rule add pref 600 from all ipproto tcp dport 80-443 lookup main protocol static",
		"ip -6 rule add pref 0 from fe80:ec2::1 ipproto ipv6-icmp lookup local protocol kernel",
		"ip -4 rule add pref 601 not from 10.9.0.0/16 lookup main suppress_prefixlength 0 protocol static",
		"ip -4 route replace 192.0.2.0/24 proto static nexthop via 10.0.0.1 dev ens5 weight 1 nexthop via 10.0.0.2 dev ens5 weight 3",
	}
	on(t, l.node, func() error {
		out, err := exec.Command("sh", "-ec", strings.Join(script, "\n")).CombinedOutput()
		if err != nil {
			t.Errorf("%s", out)
		}
		return err
	})
	got := l.state()
	for _, want := range []string{
		"pref 600 from all ipproto tcp dport 80-443 lookup main protocol static",
		script[1], // the one that this package makes as well
		"pref 601 from 10.9.0.0/16 not suppress_prefixlength 0 lookup main protocol static",
		script[3],
	} {
		if !contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	n := datapath.Rule{
		IPv6: true, From: netip.MustParsePrefix("fe80:ec2::1/128"), IPProto: 58, Table: 255, Protocol: 2,
	}
	if err := l.h.Apply(t.Context(), []datapath.Change{{Op: datapath.OpDelete, Item: n}}); err != nil {
		t.Fatal(err)
	}
	if contains(l.state(), script[1]) {
		t.Error("the rule with a protocol is still there")
	}
}
