// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
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
		var accepted vpctest.Record
		for _, r := range log.Records(t) {
			if r.Src == vpctest.PeerAddr && r.DstPort == 8080 {
				actions[r.Action] = true
			}
			if r.Src == vpctest.PeerAddr && r.Action == vpctest.Accept && r.Status == "OK" {
				accepted = r
			}
		}
		r := accepted
		fmt.Println("account", r.Account, "ENI of the node:", r.ENI == node.ENIs()[0].ID)
		fmt.Println("protocol", r.Protocol, "to the node:", r.Dst == node.Addr, "from a port:", r.SrcPort > 0)
		fmt.Println("the packets have these addresses:", r.PktSrc == r.Src && r.PktDst == r.Dst)
		fmt.Println("bytes:", r.Bytes > r.Packets, "within:", !r.End.Before(r.Start))
		fmt.Println("rejected:", actions[vpctest.Reject], "accepted:", actions[vpctest.Accept])
		drops := vpc.Drops(t)
		fmt.Println("packets dropped:", drops.SecurityGroups > 0, drops.NetworkACLs, drops.InternetGateway)
	})
	// Output:
	// account 123456789012 ENI of the node: true
	// protocol 6 to the node: true from a port: true
	// the packets have these addresses: true
	// bytes: true within: true
	// rejected: true accepted: true
	// packets dropped: true 0 0
}

// A network load balancer passes connections on to the healthy one of two nodes, which sees the
// address of the client. For a second port it asks the nodes over HTTP whether they are ready.
func ExampleVPC_Balancer() {
	test(func(t vpctest.TB) {
		vpc := vpctest.New(t)
		client, first, second := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
		for _, n := range []*vpctest.Node{first, second} {
			n.Echo(t, n.Target(30080))
		}
		ready := second.Listen(t, second.Target(8081))
		go http.Serve(ready, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		targets := []netip.AddrPort{first.Target(30080), second.Target(30080)}
		balancer := vpc.Balancer(t, vpctest.BalancerInput{
			Subnet: vpc.Subnets[0].ID, Public: true, Groups: []string{vpc.DefaultGroup()},
			Listeners: []vpctest.Listener{{
				Network: "tcp", Port: 80, Targets: targets,
				Check: vpctest.HealthCheck{Interval: 50 * time.Millisecond, Healthy: 1, Unhealthy: 3},
			}, {
				Network: "tcp", Port: 81, Targets: targets,
				Check: vpctest.HealthCheck{HTTPPath: "/ready", Port: 8081, Timeout: 10 * time.Second},
			}},
		})
		balancer.WaitHealthy(t, "tcp", 81, second.Target(30080))
		balancer.WaitHealthy(t, "tcp", 80, targets...)
		e, _ := vpc.Cloud.ENI(balancer.ENI)
		fmt.Println("its ENI has its address:", e.Addr == balancer.Addr)
		seen := client.Ask(t, "tcp", balancer.At(80))
		fmt.Println("the target sees the client:", seen.Addr() == client.Addr)

		first.Run(t, "ip", "link", "set", "ens5", "down")
		balancer.WaitHealthy(t, "tcp", 80, second.Target(30080))
		client.Ask(t, "tcp", balancer.At(80))
		fmt.Println("healthy targets:", len(balancer.Healthy("tcp", 80)))
	})
	// Output:
	// its ENI has its address: true
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
				p := packets[i]
				fmt.Println(p.Src.Addr(), "to", p.Dst.Addr(), "VLAN", p.VLAN, "EtherType", hex.EncodeToString(p.Data[12:14]))
				fmt.Println("by ens5:", p.Link == "ens5", "before now:", p.Time.Before(time.Now()))
			}
		}
	})
	// Output:
	// 10.0.0.4 to 192.168.100.10 VLAN 0 EtherType 0800
	// by ens5: false before now: true
	// 10.0.0.4 to 192.168.100.10 VLAN 0 EtherType 0800
	// by ens5: true before now: true
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

// A VPC with the smaller links of another region, and with a second address behind the peering.
func ExampleNewWith() {
	second := netip.MustParseAddr("192.168.100.11")
	test(func(t vpctest.TB) {
		vpc := vpctest.NewWith(t, vpctest.Config{MTU: 1500, PeerAddrs: []netip.Addr{second}})
		node := vpc.Node(t, "m5.large")
		node.Ping(t, second)
		node.Do(t, func() error {
			ens5, err := net.InterfaceByName("ens5")
			fmt.Println("MTU", ens5.MTU)
			return err
		})
	})
	// Output: MTU 1500
}
