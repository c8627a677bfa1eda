// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// A call of the EC2 API changes the security groups, and the flow log shows what they reject.
func ExampleVPC_FlowLog() {
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		node := vpc.Node(t, "m5.large")
		echo := netip.AddrPortFrom(node.Addr, 8080)
		node.Echo(t, echo)
		log := vpc.FlowLog(t)

		vpc.Peer().NoAnswer(t, "tcp", echo) // the default group accepts only its members
		vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", vpc.DefaultGroup(), "IpPermissions.1.IpProtocol", "tcp",
			"IpPermissions.1.FromPort", "8080", "IpPermissions.1.ToPort", "8080",
			"IpPermissions.1.IpRanges.1.CidrIp", vpctest.PeerAddr.String()+"/32")
		vpc.Peer().Ask(t, "tcp", echo)

		actions := map[string]bool{}
		for _, r := range log.Records(t) {
			if r.Src == vpctest.PeerAddr && r.DstPort == 8080 {
				actions[r.Action] = true
			}
		}
		fmt.Println("rejected:", actions[vpctest.Reject], "accepted:", actions[vpctest.Accept])
		fmt.Println("packets dropped:", vpc.Drops(t).SecurityGroups > 0)
	})
	// Output:
	// rejected: true accepted: true
	// packets dropped: true
}

// A network load balancer passes connections on to the healthy one of two nodes, which sees the
// address of the client.
func ExampleVPC_Balancer() {
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		client, first, second := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
		for _, n := range []*vpctest.Node{first, second} {
			n.Echo(t, n.Target(30080))
		}
		balancer := vpc.Balancer(t, vpctest.BalancerInput{Listeners: []vpctest.Listener{{
			Network: "tcp", Port: 80, Targets: []netip.AddrPort{first.Target(30080), second.Target(30080)},
			Check: vpctest.HealthCheck{Interval: 50 * time.Millisecond, Healthy: 1, Unhealthy: 3},
		}}})
		balancer.WaitHealthy(t, "tcp", 80, first.Target(30080), second.Target(30080))
		seen := client.Ask(t, "tcp", balancer.At(80))
		fmt.Println("the target sees the client:", seen.Addr() == client.Addr)

		first.Run(t, "ip", "link", "set", "ens5", "down")
		balancer.WaitHealthy(t, "tcp", 80, second.Target(30080))
		client.Ask(t, "tcp", balancer.At(80))
		fmt.Println("healthy targets:", len(balancer.Healthy("tcp", 80)))
	})
	// Output:
	// the target sees the client: true
	// healthy targets: 1
}

// The resolver answers the private names of the nodes, and the names that the test adds.
func ExampleVPC_SetName() {
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		node := vpc.Node(t, "m5.large")
		vpc.SetName(t, "db.example.com", netip.MustParseAddr("10.0.99.1"))
		fmt.Println(vpc.Resolver())
		fmt.Println(node.Lookup(t, "udp", vpc.Resolver(), "db.example.com"))
		fmt.Println(node.LookupAddr(t, "udp", vpc.Resolver(), node.Addr))
	})
	// Output:
	// 10.0.0.2
	// [10.0.99.1]
	// ip-10-0-0-4.us-west-2.compute.internal.
}

// A capture at the primary ENI, and one inside the node, show how a packet leaves.
func ExampleVPC_CaptureENI() {
	if err := vpctest.Available(); err != nil {
		fmt.Println(err) // names the setting of the kernel that forbids namespaces
		return
	}
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		node := vpc.Node(t, "m5.large")
		outside, inside := vpc.CaptureENI(t, node.ENIs()[0].ID), node.Capture(t, "ens5")
		node.Ping(t, vpctest.PeerAddr)
		ping := func(p vpctest.Packet) bool { return p.Protocol == 1 && p.Dst.Addr() == vpctest.PeerAddr }
		for _, c := range []*vpctest.Capture{outside, inside} {
			packets := c.Packets(t)
			if i := slices.IndexFunc(packets, ping); i >= 0 {
				fmt.Println(packets[i].Src.Addr(), "to", packets[i].Dst.Addr())
			}
		}
	})
	// Output:
	// 10.0.0.4 to 192.168.100.10
	// 10.0.0.4 to 192.168.100.10
}

// A server in the node's namespace answers another node, but not the peer network.
func ExampleHost_Dial() {
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		node, other := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
		at := netip.AddrPortFrom(node.Addr, 8080)
		listener := node.Listen(t, at)
		go func() {
			if c, err := listener.Accept(); err == nil {
				fmt.Fprint(c, "hello")
				c.Close()
			}
		}()
		text, err := io.ReadAll(other.Dial(t, "tcp", at))
		fmt.Println(string(text), err)
		vpc.Peer().NoPing(t, node.Addr) // the default group accepts only its members
		node.Ping(t, vpctest.PeerAddr6)
	})
	// Output: hello <nil>
}
