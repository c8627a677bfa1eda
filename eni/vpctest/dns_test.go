// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestResolver asks the resolver from a node at each of its addresses, over UDP and TCP.
func TestResolver(t *testing.T) {
	vpc := vpctest.New(t)
	first, second := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
	eni := second.ENIs()[0]
	vpc.EC2(t, "AssignPrivateIpAddresses", "NetworkInterfaceId", eni.ID, "SecondaryPrivateIpAddressCount", "1")
	vpc.EC2(t, "AssignPrivateIpAddresses", "NetworkInterfaceId", eni.ID, "Ipv4PrefixCount", "1")
	eni = second.ENIs()[0]
	inPrefix := eni.Prefixes[0].Addr().Next()
	db4, db6 := netip.MustParseAddr("10.0.99.1"), netip.MustParseAddr("2001:db8::99")
	vpc.SetName(t, "db.Example.com", db4, db6)
	private := func(a netip.Addr) string {
		return "ip-" + strings.ReplaceAll(a.String(), ".", "-") + ".us-west-2.compute.internal"
	}
	if vpc.Resolver() != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("the resolver is %v, want the base of the VPC plus two", vpc.Resolver())
	}
	for _, server := range []netip.Addr{vpc.Resolver(), netip.MustParseAddr("169.254.169.253"), netip.MustParseAddr("fd00:ec2::253")} {
		for _, network := range []string{"udp", "tcp"} {
			for _, tt := range []struct {
				name string
				want []netip.Addr
			}{
				{private(first.Addr), []netip.Addr{first.Addr}},
				{strings.ToUpper(private(second.Addr)), []netip.Addr{second.Addr}},
				{private(eni.Addrs[0]), eni.Addrs},
				{private(inPrefix), []netip.Addr{inPrefix}},
				{second.ID() + ".us-west-2.compute.internal", []netip.Addr{second.Addr, second.Addr6}},
				{"db.example.com", []netip.Addr{db4, db6}},
				{"ip-10-0-3-3.us-west-2.compute.internal", nil}, // no ENI has it
				{"ip-010-0-0-4.us-west-2.compute.internal", nil},
				{"ip-10-0-0-4.eu-west-1.compute.internal", nil},
				{"example.com", nil},
			} {
				if got := first.Lookup(t, network, server, tt.name); !slices.Equal(got, tt.want) {
					t.Errorf("%v over %s: %s is %v, want %v", server, network, tt.name, got, tt.want)
				}
			}
			for a, want := range map[netip.Addr]string{
				second.Addr: private(second.Addr) + ".", db4: "db.example.com.", db6: "db.example.com.",
				netip.MustParseAddr("10.0.3.3"): "",
			} {
				if got := first.LookupAddr(t, network, server, a); got != want {
					t.Errorf("%v over %s: the name of %v is %q, want %q", server, network, a, got, want)
				}
			}
		}
	}
	// A name ends with its address, and an added name when it is deleted.
	vpc.EC2(t, "UnassignPrivateIpAddresses", "NetworkInterfaceId", eni.ID, "PrivateIpAddress.1", eni.Addrs[0].String())
	vpc.SetName(t, "db.example.com")
	for _, name := range []string{private(eni.Addrs[0]), "db.example.com"} {
		if got := first.Lookup(t, "udp", vpc.Resolver(), name); len(got) > 0 {
			t.Errorf("%s is still %v", name, got)
		}
	}
	// An answer that is too long for UDP arrives over TCP.
	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 50, byte(i)}))
	}
	vpc.SetName(t, "many.example.com", many...)
	if got := first.Lookup(t, "", vpc.Resolver(), "many.example.com"); len(got) != len(many) {
		t.Errorf("%d of %d addresses", len(got), len(many))
	}
	for _, bad := range []string{"", "a..b", strings.Repeat("x", 64) + ".example.com"} {
		if got := fails(t, func(t vpctest.TB) { vpc.SetName(t, bad, db4) }); !strings.Contains(got, fmt.Sprintf("%q is not a DNS name", bad)) {
			t.Errorf("SetName of %q: %q", bad, got)
		}
	}
}
