// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
)

// Addresses outside the VPC, of the node, and of an instance in another subnet.
var (
	Outside4 = netip.MustParseAddr("198.51.100.9")
	Outside6 = netip.MustParseAddr("2001:db8:99::9")
	Node4    = netip.MustParseAddr("10.0.0.10")
	Node6    = netip.MustParseAddr("2001:db8:0:1::10")
	VPCHost4 = netip.MustParseAddr("10.0.7.7")
	VPCHost6 = netip.MustParseAddr("2001:db8:0:7::7")
)

// OutsideOf returns the address of the outside host that has the family of a.
func OutsideOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Outside4
	}
	return Outside6
}

// Layouts lists all layouts.
func Layouts() []datapath.Layout { return []datapath.Layout{datapath.Flat, datapath.PerPod} }

// MAC parses a hardware address. It panics if s is not one.
func MAC(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// Prefixes parses prefixes. It panics if one of them is invalid.
func Prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range s {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// Node returns a node with a primary ENI and a secondary one, both with addresses of
// both families, and one on card 1 with IPv4 only.
func Node(layout datapath.Layout) datapath.Node {
	return datapath.Node{
		Layout: layout,
		ENIs: []datapath.ENI{{
			ID: "eni-0a", MAC: MAC("06:00:00:00:00:05"), Link: "ens5",
			Addrs:   Prefixes("10.0.0.10/24", "2001:db8:0:1::10/64"),
			Sources: Prefixes("10.0.0.100/32", "2001:db8:0:1:a::/80"),
		}, {
			ID: "eni-0b", MAC: MAC("06:00:00:00:00:06"), Link: "ens6", Device: 1, MTU: 9001,
			Addrs:   Prefixes("10.0.0.20/24", "2001:db8:0:1::20/64"),
			Sources: Prefixes("10.0.0.101/32", "10.0.0.112/28", "10.0.0.128/28", "2001:db8:0:1:b::/80"),
		}, {
			ID: "eni-0c", MAC: MAC("06:00:00:00:00:07"), Link: "ens7", Card: 1, Device: 1,
			Addrs:   Prefixes("10.0.1.30/24"),
			Sources: Prefixes("10.0.1.101/32"),
		}},
	}
}

// Pod returns a pod with an address of each family on the secondary ENI of [Node].
func Pod(layout datapath.Layout, table int) datapath.Pod {
	return datapath.Pod{
		ContainerID: "0123456789abcdef", IfName: "eth0", Layout: layout, MTU: 9001,
		Addrs: []datapath.PodAddr{
			{Addr: netip.MustParseAddr("10.0.0.101"), Table: table},
			{Addr: netip.MustParseAddr("2001:db8:0:1:b::1"), Table: table},
		},
	}
}

// Branch returns a branch ENI on the secondary ENI of [Node].
func Branch(enforcement datapath.Enforcement) *datapath.Branch {
	return &datapath.Branch{
		ENI: datapath.ENI{
			ID: "eni-0d", MAC: MAC("06:00:00:00:00:0d"),
			Addrs: Prefixes("10.0.2.40/24", "2001:db8:0:2::40/64"),
		},
		Trunk: Node(datapath.Flat).ENIs[1], VLAN: 5, Enforcement: enforcement,
	}
}

// BranchAddrs returns the addresses of a pod on the ENI of [Branch]: those of the ENI
// itself.
func BranchAddrs() []datapath.PodAddr {
	return []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.2.40")}, {Addr: netip.MustParseAddr("2001:db8:0:2::40")}}
}

// Modes returns every mode of a pod except the plain veth pair, by name.
func Modes() map[string]datapath.Mode {
	enis := Node(datapath.Flat).ENIs
	return map[string]datapath.Mode{
		"ipvlan": {IPVLAN: &datapath.IPVLAN{
			ENI:    enis[1],
			Direct: Prefixes("10.0.0.0/16", "2001:db8::/56"),
			Except: Prefixes("10.0.0.10/32", "2001:db8:0:1::10/128"),
		}},
		"eni":             {Whole: &datapath.WholeENI{ENI: enis[1]}},
		"branch-standard": {Branch: Branch(datapath.Standard)},
		"branch-strict":   {Branch: Branch(datapath.Strict)},
		"bridge":          {Bridge: &datapath.Bridge{}},
	}
}
