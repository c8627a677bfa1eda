// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/snat"
)

// agent is the agent under test: it wires a pod with an address of the primary ENI, and
// translates what leaves the VPC.
func agent(t vpctest.TB, vpc *vpctest.VPC, pod *vpctest.Pod) (addr netip.Addr) {
	node := pod.Node
	must := func(err error) {
		if err != nil {
			t.Fatalf("agent: %v", err)
		}
	}
	eni := node.ENIs()[0]
	vpc.EC2(t, "AssignPrivateIpAddresses", "NetworkInterfaceId", eni.ID, "SecondaryPrivateIpAddressCount", "1")
	addr = node.ENIs()[0].Addrs[0]
	mac, err := net.ParseMAC(eni.MAC)
	must(err)
	path, err := datapath.Open(node.Path())
	must(err)
	defer path.Close()
	must(path.EnsureNode(t.Context(), datapath.Node{ENIs: []datapath.ENI{{
		ID: eni.ID, MAC: mac, Addrs: []netip.Prefix{netip.PrefixFrom(node.Addr, eni.SubnetPrefix.Bits())},
		Sources: []netip.Prefix{netip.PrefixFrom(addr, 32)},
	}}}))
	_, err = path.AddPod(t.Context(), datapath.Pod{
		ContainerID: pod.Name(), IfName: "eth0", Netns: pod.Path(), Addrs: []datapath.PodAddr{{Addr: addr, Table: datapath.Table(0, 0)}},
	})
	must(err)
	out, err := snat.Open(node.Path())
	must(err)
	defer out.Close()
	rules, err := snat.Config{NodeAddrs: []netip.Addr{node.Addr}, PrimaryLink: "ens5", VPC: vpc.Cloud.VPCs()[0].Prefixes}.Ruleset()
	must(err)
	_, err = out.Apply(t.Context(), rules)
	must(err)
	return addr
}

// A test of an agent: a pod that it has wired reaches the internet with the address of its
// node, and the VPC with its own.
func Example_agent() {
	test(func(t vpctest.TB) { // func TestAgent(t *testing.T) {
		vpc := vpctest.New(t)
		node, other := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
		pod := node.Pod(t)
		addr := agent(t, vpc, pod)

		pod.Ping(t, vpctest.InternetAddr)
		seen := pod.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort))
		fmt.Println("the internet sees the node:", seen.Addr() == node.Addr)

		echo := netip.AddrPortFrom(other.Addr, 8080)
		other.Echo(t, echo)
		seen = pod.Ask(t, "tcp", echo)
		fmt.Println("another node sees the pod:", seen.Addr() == addr)

		pod.Do(t, func() error {
			eth0, err := net.InterfaceByName("eth0")
			fmt.Println("the pod's link is up:", err == nil && eth0.Flags&net.FlagUp != 0)
			return err
		})
	})
	// Output:
	// the internet sees the node: true
	// another node sees the pod: true
	// the pod's link is up: true
}
