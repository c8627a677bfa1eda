// SPDX-License-Identifier: Apache-2.0

// Package vpctest provides a VPC for tests of a node's network agent and of CNI plugins:
// the EC2 API and the metadata service of package enitest, and a data plane of network
// namespaces that follows them. It needs Linux, but neither root nor AWS.
//
//	        the EC2 API and the metadata service (package enitest)
//	              │ attach, assign, modify, authorize …
//	┌─ node-1 ────┴───────┐  ┌─ node-2 ────────────┐
//	│ pod-1-1    pod-1-2  │  │ pod-2-1             │        internet      peer
//	│    └─ your agent ─┘ │  │    └─ your agent    │      203.0.113.10  192.168.100.10
//	│  ens5    ens6   …   │  │  ens5    ens6   …   │           │           │
//	└───┬───────┬─────────┘  └───┬───────┬─────────┘           │           │
//	    │ eni-… │ eni-…          │ eni-… │ eni-…               │           │
//	┌───┴───────┴────────────────┴───────┴─────────────────────┴───────────┴────┐
//	│  source/dest check · security groups · network ACLs · VPC route tables    │
//	│  flow log · resolver at VPC+2 · network load balancer                     │
//	└───────────────────────────────────────────────────────────────────────────┘
//
// # A test
//
// The tests of a package run in namespaces of their own, which TestMain enters:
//
//	func TestMain(m *testing.M) { vpctest.Main(m) }
//
//	func TestAgent(t *testing.T) {
//		vpc := vpctest.New(t)
//		node := vpc.Node(t, "m5.large")
//		cmd := exec.Command("my-agent", "-socket", socket)
//		cmd.Env = append(os.Environ(), node.Env()...)
//		node.Start(t, cmd)
//		pod := node.Pod(t)
//		addPod(t, socket, pod.Path()) // a CNI ADD, for example
//		pod.Ping(t, vpctest.InternetAddr)
//	}
//
// Methods with a [TB] end the test with a clear text if they fail, and clean up when the
// test ends. [Start] and [VPC.AddNode] are for programs.
//
// # Nodes
//
// A [Node] is an instance. It has booted as an EC2 image does: its primary ENI is ens5, with
// the address, the default route and the route to the resolver that DHCP gives. When a call
// of the EC2 API attaches an ENI, a link with its MAC appears in the node, down and without
// addresses, as in EC2. ens6 is device 1 of card 0; device 1 of card 1 is ens38. A link
// vanishes when its ENI is detached. Addresses count for the VPC as soon as they are
// assigned.
//
// Inside of a node the EC2 API answers at [EC2URL] and the metadata service at [MetadataURL],
// its usual address; it knows the node by the source address of the request. [Node.Env] has
// the variables that direct the AWS SDKs there.
//
// # Pods
//
// A [Pod] is an empty network namespace, as a container runtime creates it before it calls
// a CNI plugin. The agent under test connects it. Afterwards the test sends packets from the
// pod: [Host.Ping], [Host.Ask], [Host.Dial], [Host.Listen], [Host.Echo], [Host.Do].
//
// # What the VPC does
//
//   - It delivers a packet to the ENI that owns the destination, and drops a packet with a
//     source that the sending ENI does not own, unless the source/destination check of the ENI is
//     off. [VPC.Drops] counts both.
//   - The VPC route tables, network ACLs and security groups of the EC2 API are in force;
//     [VPC.EC2] changes them. [VPC.FlowLog] records what they accept and reject.
//     A connection from the internet or from the peer needs a rule for it, as in AWS: the
//     default security group accepts only traffic between its members.
//   - Beyond the internet gateway is a host at [InternetAddr], and in a peered network one at
//     [PeerAddr]. Both answer at [EchoPort]. The gateway passes only primary addresses of ENIs
//     that have a public address, and translates nothing, so that a test sees which address
//     left the node. Nodes in the subnets of the zero [Config] have public addresses.
//   - The resolver at [VPC.Resolver], 169.254.169.253 and fd00:ec2::253 answers the private
//     names of the ENIs' addresses, and the names that [VPC.SetName] adds.
//   - A network load balancer, see [VPC.Balancer], passes flows on to healthy targets,
//     which see the address of the client.
package vpctest
