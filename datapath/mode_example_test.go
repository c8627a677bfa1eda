// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
)

// A pod can be joined to the VPC in several ways. They differ in the link of the node that
// leads to the pod, and in the address that the pod sends its packets to.
func ExampleMode() {
	eni := datapath.ENI{
		ID: "eni-0b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 2}, Device: 1, Link: "ens6",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
	}
	p := datapath.Pod{
		ContainerID: "4b4a7c9e", IfName: "eth0", Netns: "/run/netns/pod",
		Addrs:    []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.101"), Table: eni.Table()}},
		PathMTUs: []datapath.PathMTU{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), MTU: 1500}},
	}
	branch := datapath.ENI{ID: "eni-0d", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 4}, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.101/24")}}
	for _, c := range []struct {
		name string
		mode datapath.Mode
	}{
		{"routed", datapath.Mode{}},
		{"bridge", datapath.Mode{Bridge: &datapath.Bridge{}}},
		{"ipvlan", datapath.Mode{IPVLAN: &datapath.IPVLAN{ENI: eni, Direct: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}}},
		{"branch", datapath.Mode{Branch: &datapath.Branch{ENI: branch, Trunk: eni, VLAN: 7, Enforcement: datapath.Standard}}},
		{"strict", datapath.Mode{Branch: &datapath.Branch{ENI: branch, Trunk: eni, VLAN: 7, Enforcement: datapath.Strict}}},
		{"whole", datapath.Mode{Whole: &datapath.WholeENI{ENI: eni}}},
	} {
		p.Mode = c.mode
		if err := p.Validate(); err != nil {
			fmt.Println(err)
			continue
		}
		w := p.Wiring()
		fmt.Printf("%s: %q leads to %s, which sends to %s\n", c.name, p.NodeLink(), w.SandboxLink, w.Gateways[0])
	}
	// Output:
	// routed: "eni6ccda3c4a07" leads to eth0, which sends to 169.254.1.1
	// bridge: "enibr0" leads to eth0, which sends to 169.254.1.1
	// ipvlan: "eni6ccda3c4a07" leads to eth0, which sends to 10.0.0.1
	// branch: "eni6ccda3c4a07" leads to eth0, which sends to 169.254.1.1
	// strict: "vlan6ccda3c4a07" leads to eth0, which sends to 169.254.1.1
	// whole: "" leads to eth0, which sends to 10.0.0.1
}
