// SPDX-License-Identifier: Apache-2.0

package vpcrules_test

import (
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func toENI(id string) vpcrules.Target { return vpcrules.Target{Kind: vpcrules.ToENI, ENI: id} }

var (
	blackhole = vpcrules.Target{}
	local     = vpcrules.Target{Kind: vpcrules.Local}
	internet  = vpcrules.Target{Kind: vpcrules.Internet}
	peer      = vpcrules.Target{Kind: vpcrules.Peer}
)

// testNetwork has two subnets; a holds eni-1 and eni-2, b holds eni-3.
func testNetwork() vpcrules.Network {
	return vpcrules.Network{
		Rules: vpcrules.Rules{Blocks: []netip.Prefix{prefix("10.0.0.0/16"), prefix("2001:db8:1::/56")}},
		ENIs: []vpcrules.ENI{
			{ID: "eni-1", Subnet: "a", Owned: []netip.Prefix{prefix("10.0.1.10/32"), prefix("2001:db8:1:1::10/128")}},
			{ID: "eni-2", Subnet: "a", Owned: []netip.Prefix{prefix("10.0.1.20/32"), prefix("10.0.1.32/28")}},
			{ID: "eni-3", Subnet: "b", Owned: []netip.Prefix{prefix("10.0.2.10/32"), prefix("2001:db8:1:2::10/128")}},
		},
		Public: []netip.Addr{ip("10.0.1.10")},
		Peers:  []netip.Prefix{prefix("192.168.100.10/32")},
	}
}

func TestRoute(t *testing.T) {
	n := testNetwork()
	n.RouteTables = []vpcrules.RouteTable{
		{ID: "listed", Subnets: []string{"a"}, Routes: []vpcrules.Route{
			{Destination: prefix("0.0.0.0/0"), Target: internet},
			{Destination: prefix("::/0"), Target: internet},
			{Destination: prefix("100.64.0.0/16"), Target: toENI("eni-3")},
			{Destination: prefix("100.64.7.0/24"), Target: blackhole},
			{Destination: prefix("100.64.8.0/24"), Target: toENI("eni-9")},
			{Destination: prefix("100.64.8.8/32"), Target: toENI("eni-2")},
			{Destination: prefix("10.0.2.0/24"), Target: toENI("eni-2")},
			{Destination: prefix("10.0.2.10/32"), Target: local},
			{Destination: prefix("192.168.0.0/16"), Target: peer},
			{Destination: prefix("192.168.9.0/24"), Target: local},
			{Destination: prefix("2001:db8:1:2::/64"), Target: toENI("eni-1")},
			{Destination: prefix("fd00::/8"), Target: peer},
		}},
		{ID: "main", Main: true},
		{ID: "replaced", Subnets: []string{"c"}, Routes: []vpcrules.Route{{Destination: prefix("10.0.0.0/16"), Target: toENI("eni-3")}}},
	}
	for _, tt := range []struct {
		subnet, to string
		want       vpcrules.Target
	}{
		{"a", "10.0.1.10", toENI("eni-1")},
		{"a", "10.0.1.47", toENI("eni-2")},
		{"a", "10.0.1.48", blackhole},
		{"a", "10.0.2.10", toENI("eni-3")},
		{"a", "10.0.2.11", toENI("eni-2")},
		{"a", "100.64.1.1", toENI("eni-3")},
		{"a", "100.64.7.1", blackhole},
		{"a", "100.64.8.1", blackhole}, // an ENI that is not attached
		{"a", "100.64.8.8", toENI("eni-2")},
		{"a", "192.168.100.10", peer},
		{"a", "192.168.9.1", blackhole}, // local, but outside of the VPC
		{"a", "203.0.113.10", internet},
		{"a", "2001:db8:1:1::10", toENI("eni-1")},
		{"a", "2001:db8:1:2::10", toENI("eni-1")},
		{"a", "2001:db8:ffff::1", internet},
		{"a", "fd00::1", peer},
		{"b", "10.0.1.20", toENI("eni-2")},
		{"b", "203.0.113.10", blackhole},
		{"b", "192.168.100.10", blackhole},
		{"b", "2001:db8:ffff::1", blackhole},
		{"c", "10.0.1.10", toENI("eni-3")},
		{"", "10.0.1.20", toENI("eni-2")},
		{"", "10.0.1.99", blackhole},
		{"", "192.168.100.10", peer},
		{"", "203.0.113.10", internet},
	} {
		if got := n.Route(tt.subnet, ip(tt.to)); got != tt.want {
			t.Errorf("from subnet %q to %s: %+v, want %+v", tt.subnet, tt.to, got, tt.want)
		}
	}
	n.RouteTables = nil
	for to, want := range map[string]vpcrules.Target{"10.0.2.10": toENI("eni-3"), "10.0.2.99": blackhole, "192.168.100.10": peer, "192.168.100.11": internet} {
		if got := n.Route("a", ip(to)); got != want {
			t.Errorf("without tables to %s: %+v, want %+v", to, got, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for id, want := range map[string]vpcrules.Target{
		"eni-0123": toENI("eni-0123"), "igw-1": internet, "eigw-1": internet, "tgw-1": peer, "pcx-1": peer, "vgw-1": peer,
		"local": local, "nat-1": blackhole, "vpce-1": blackhole, "": blackhole, "eni": {Kind: vpcrules.ToENI, ENI: "eni"},
	} {
		if got := vpcrules.ParseTarget(id); got != want {
			t.Errorf("ParseTarget(%q) = %+v, want %+v", id, got, want)
		}
	}
}
