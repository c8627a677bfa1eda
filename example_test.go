// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/warmpool"
)

// A policy decides how much spare capacity a node needs. The decision is a value that
// a test can compare.
func Example_warmpool() {
	s := warmpool.Snapshot{
		Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 5, AddressesPerSlot: 1, MaxPods: 17},
		ENIs:   []warmpool.ENI{{ID: "eni-a", Primary: true, Slots: 5, Assigned: 4}},
	}
	d := warmpool.Plan(warmpool.AWS{WarmIPTarget: 3}, s)
	for _, a := range d.Actions {
		fmt.Println(a.Op, a.N, "-", a.Explanation)
	}
	// Output:
	// create 2 - WARM_IP_TARGET 3, MINIMUM_IP_TARGET 0: want 7, have 5 usable addresses, 4 assigned
}

// A pool allocates addresses. Repeated requests for a pod return the same address.
func Example_ipam() {
	pool, _ := ipam.Open(ipam.Config{}) // with a Journal it survives restarts
	_ = pool.SetENI(ipam.ENI{ID: "eni-a"})
	_ = pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.1.16/28"), ENI: "eni-a"})
	_ = pool.SetReady("eni-a", true) // its link, table and routes are verified

	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f6c", IfName: "eth0"}
	got, err := pool.Allocate(context.Background(), ipam.Request{Attachment: pod})
	again, _ := pool.Allocate(context.Background(), ipam.Request{Attachment: pod})
	fmt.Println(got[0].Addr, again[0].Addr, err)
	// Output:
	// 10.0.1.16 10.0.1.16 <nil>
}

// Provision adds an ENI with five addresses, here on an EC2 API in process.
func Example_eni() {
	cloud := enitest.New(enitest.Config{})
	vpc, _ := cloud.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
	subnet, _ := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/24")})
	node, _ := cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: "t3.medium"})

	cfg := aws.Config{ // on a real node: config.LoadDefaultConfig(ctx)
		Region:      cloud.Region(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		HTTPClient:  &http.Client{Transport: cloud.Transport(node.ID)},
	}
	enis, _ := eni.New(eni.Config{Client: eni.NewClient(cfg, eni.ClientConfig{})})
	_, _ = enis.Discover(context.Background())
	e, err := enis.Provision(context.Background(), eni.ProvisionInput{Slots: 5})
	fmt.Println(e.Device, len(e.Addrs), err, cloud.Calls()["CreateNetworkInterface"])
	// Output:
	// 1 5 <nil> 1
}

// HostState returns the links, routes and rules that a pod needs on the node.
func Example_datapath() {
	pod := datapath.Pod{
		ContainerID: "4f6c", IfName: "eth0", Layout: datapath.PerPod,
		Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.16"), Table: datapath.Table(0, 1)}},
	}
	for _, rule := range pod.HostState().Rules {
		fmt.Println(rule)
	}
	// To apply them to the kernel:
	//	node, _ := datapath.Open("")  // this network namespace
	//	wiring, err := node.AddPod(ctx, pod)

	// Output:
	// pref 512 from all to 10.0.1.16 lookup main protocol kernel
	// pref 1536 from 10.0.1.16 lookup 2 protocol kernel
}

// Ruleset returns the translation as an nftables table, which prints itself as nft
// does.
func Example_snat() {
	rules, err := snat.Config{
		NodeAddrs:   []netip.Addr{netip.MustParseAddr("10.0.1.10")},
		PrimaryLink: "ens5",
		VPC:         []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}.Ruleset()
	fmt.Println(rules, err)
	// To apply it to the kernel:
	//	node, _ := snat.Open("")  // this network namespace
	//	_, err = node.Apply(ctx, rules)
	//	err = node.Watch(ctx, snat.WatchConfig{Desired: func() (snat.Ruleset, bool) { return rules, true }})

	// Output:
	// table inet vpcnet-snat {
	// 	set inside {
	// 		type ipv4_addr
	// 		flags interval
	// 		elements = { 10.0.0.0/16 }
	// 	}
	//
	// 	chain pods {
	// 		type filter hook prerouting priority dstnat + 10; policy accept;
	// 		iifname "eni*" ct state new ip daddr != @inside fib daddr type != local ct mark set ct mark | 0x00000080 comment "flows that will be translated"
	// 		iifname "eni*" ct mark & 0x00000080 == 0x00000080 meta mark set meta mark | 0x00000080 comment "leave by the primary ENI"
	// 	}
	//
	// 	chain source {
	// 		type nat hook postrouting priority srcnat + 10; policy accept;
	// 		oifname "ens5" ip daddr != @inside fib saddr type != local counter snat ip to 10.0.1.10 fully-random comment "pods appear as the node"
	// 	}
	// }
	//  <nil>
}

// A Conflist is the file in /etc/cni/net.d with which a runtime calls the plugin, here
// with support for hostPorts.
func Example_cniplugin() {
	list := cniplugin.Conflist{
		Conf:    cniplugin.NetConf{AgentSocket: cniplugin.DefaultSocket},
		Chained: []json.RawMessage{[]byte(`{"type": "portmap", "capabilities": {"portMappings": true}}`)},
	}
	text, err := list.JSON()
	fmt.Println(string(text), err)
	// The plugin is one call, cniplugin.Plugin{}.Main. An agent serves its requests
	// with server.Server and its own Backend.

	// Output:
	// {
	//   "cniVersion": "1.0.0",
	//   "cniVersions": [
	//     "1.0.0",
	//     "1.1.0"
	//   ],
	//   "name": "vpcnet",
	//   "plugins": [
	//     {
	//       "type": "vpc-cni",
	//       "agentSocket": "/run/vpcnet/agent.sock"
	//     },
	//     {
	//       "type": "portmap",
	//       "capabilities": {
	//         "portMappings": true
	//       }
	//     }
	//   ]
	// }
	//  <nil>
}
