// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
)

// TestENIWithoutIPv6Address checks that an ENI that has an IPv6 prefix for pods, but no IPv6
// address of its own, as EC2 creates it, serves IPv6 pods: with a gateway, a rule and a mark.
func TestENIWithoutIPv6Address(t *testing.T) {
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		n := datapath.Node{Layout: layout, ENIs: []datapath.ENI{
			{ID: "eni-a", Link: "ens5", MAC: mac("06:00:00:00:00:05"), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24"), netip.MustParsePrefix("2001:db8::10/64")}},
			{ID: "eni-b", Link: "ens6", MAC: mac("06:00:00:00:00:06"), Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
				Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.21/32"), netip.MustParsePrefix("2001:db8:0:0:b::/80")}},
		}}
		text := n.State().String()
		want := []string{
			"ip -6 route replace fe80:ec2::1 dev ens6 table ", "ip -6 route replace default via fe80:ec2::1 dev ens6 table ",
			"net.ipv6.conf.ens6.disable_ipv6=0", "net.ipv6.conf.ens6.accept_ra=0", "from all fwmark 0x1/",
		}
		if layout == datapath.Flat {
			want = append(want, "2001:db8:0:0:b::/80 : jump eni-1")
		}
		for _, line := range want {
			if !strings.Contains(text, line) {
				t.Errorf("%s: the state lacks %q:\n%s", layout, line, text)
			}
		}
		if strings.Contains(text, "ip addr replace 2001") {
			t.Errorf("%s: the state adds an IPv6 address to ens6:\n%s", layout, text)
		}
	}
}
