// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(in ...string) (out []netip.Addr) {
	for _, s := range in {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(in ...string) (out []netip.Prefix) {
	for _, s := range in {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestMACData converts the keys that the metadata service shows below a MAC.
func TestMACData(t *testing.T) {
	both := macData{
		"interface-id": "eni-1", "device-number": "2", "network-card": "1", "subnet-id": "subnet-1", "vpc-id": "vpc-1",
		"security-group-ids": "sg-b\nsg-a", "subnet-ipv4-cidr-block": "10.0.1.0/24", "subnet-ipv6-cidr-blocks": "2001:db8::/64",
		"local-ipv4s": "10.0.1.5\n10.0.1.9\n10.0.1.7", "ipv4-prefix": "10.0.1.16/28", "ipv6s": "2001:db8::2\n2001:db8::1",
		"ipv6-prefix": "2001:db8:0:0:1::/80",
	}
	want := ENI{
		ID: "eni-1", MAC: "m", SubnetID: "subnet-1", VPCID: "vpc-1", Subnet: netip.MustParsePrefix("10.0.1.0/24"),
		Subnet6: netip.MustParsePrefix("2001:db8::/64"), Card: 1, Device: 2, Kind: KindInterface, Status: "attached",
		Addr: netip.MustParseAddr("10.0.1.5"), Addrs: addrs("10.0.1.7", "10.0.1.9", "2001:db8::1", "2001:db8::2"),
		Prefixes: prefixes("10.0.1.16/28", "2001:db8:0:0:1::/80"), Groups: []string{"sg-a", "sg-b"}, Sources: SourceMetadata,
	}
	asPrimary, unknown := maps.Clone(both), want
	asPrimary["local-ipv4"], asPrimary["ipv6"] = "10.0.1.5", "2001:db8::2"
	asPrimary["local-ipv4s"] = "10.0.1.9\n10.0.1.5\n10.0.1.7"
	unknown.Card, unknown.Device, unknown.Primary = 0, 0, true
	primary := want
	primary.Card, primary.Device, primary.Primary = 0, 0, true
	primary.Addr6, primary.Addrs = netip.MustParseAddr("2001:db8::2"), addrs("10.0.1.7", "10.0.1.9", "2001:db8::1")
	for _, c := range []struct {
		name    string
		l       macData
		primary bool
		want    ENI
	}{
		{"both families", both, false, want},
		{"primary, with other indexes and in any order", asPrimary, true, primary},
		{"primary, own IPv6 address not named", both, true, unknown},
		{"IPv4 only, no card shown", macData{"interface-id": "eni-1", "device-number": "1", "local-ipv4s": "10.0.1.5"}, false, ENI{
			ID: "eni-1", MAC: "m", Device: 1, Kind: KindInterface, Status: "attached", Addr: netip.MustParseAddr("10.0.1.5"), Sources: SourceMetadata,
		}},
		{"IPv6 only", macData{"interface-id": "eni-1", "device-number": "1", "ipv6s": "2001:db8::1", "ipv6-prefix": "2001:db8:0:0:1::/80"}, false, ENI{
			ID: "eni-1", MAC: "m", Device: 1, Kind: KindInterface, Status: "attached", Addr6: netip.MustParseAddr("2001:db8::1"),
			Prefixes: prefixes("2001:db8:0:0:1::/80"), Sources: SourceMetadata,
		}},
		{"no addresses", macData{"interface-id": "eni-1", "device-number": "1"}, false, ENI{
			ID: "eni-1", MAC: "m", Device: 1, Kind: KindEFAOnly, Status: "attached", Sources: SourceMetadata,
		}},
		{"gone", macData{}, false, ENI{MAC: "m", Kind: KindEFAOnly, Status: "attached", Sources: SourceMetadata}},
	} {
		got := c.l.eni("m", c.primary)
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// FuzzMACData checks that every block of the result is valid, and that removeBlock
// removes it.
func FuzzMACData(f *testing.F) {
	f.Add("10.0.1.5\n10.0.1.6", "10.0.1.16/28", "2001:db8::1", "2001:db8::/80", "1", true)
	f.Add("", "::ffff:10.0.0.1/100", "fe80::1%eth0", "x", "-1", false)
	f.Fuzz(func(t *testing.T, v4, p4, v6, p6, device string, primary bool) {
		e := macData{"interface-id": "eni-1", "local-ipv4s": v4, "ipv4-prefix": p4, "ipv6s": v6, "ipv6-prefix": p6, "device-number": device}.eni("m", primary)
		for _, b := range e.Blocks() {
			if !b.IsValid() || b != b.Masked() {
				t.Errorf("block %v", b)
			}
		}
		for _, b := range e.Blocks() {
			e.removeBlock(b)
		}
		if len(e.Blocks()) != 0 {
			t.Errorf("left: %v", e.Blocks())
		}
	})
}
