// SPDX-License-Identifier: Apache-2.0

// Package fabric builds a VPC out of network namespaces on one machine. The packets
// are real, and a router namespace treats them as AWS does between two instances.
//
//	  instance node-1          instance node-2            internet   peer
//	┌─────────────────┐      ┌─────────────────┐         ┌────────┐ ┌──────┐
//	│ ens5   ens6  …  │      │ ens5   ens6  …  │         │  eth0  │ │ eth0 │
//	└──┬──────┬───────┘      └──┬──────┬───────┘         └───┬────┘ └──┬───┘
//	   │ veth │ one an ENI      │      │                     │         │
//	┌──┴──────┴─────────────────┴──────┴─────────────────────┴─────────┴───┐
//	│  p1     p2                p3     p4        vpc         igw      tgw  │
//	└──────────────────────────────────────────────────────────────────────┘
//
// The router follows the rules of a VPC:
//
//   - It delivers a packet to the ENI that owns the destination address, from any
//     instance and to any subnet. Packets for an address that no ENI owns get no
//     answer.
//   - It drops and counts a packet if the sending ENI does not own the source
//     address (EC2's source/destination check).
//   - The gateway of each subnet answers ARP for itself and for every address
//     owned elsewhere in the VPC, so that a connected subnet route works. For
//     IPv6 the gateway is fe80:ec2::1.
//   - The internet gateway passes only the primary private IPv4 addresses of ENIs
//     marked public; it drops and counts packets from and to other IPv4 addresses.
//     It passes all IPv6 addresses, because they are public. Unlike AWS, it does
//     not translate to a public IPv4 address, so that a test sees in the internet
//     which address left the node.
//   - It looks up the VPC route table of the sending ENI's subnet: local routes, routes to
//     an ENI, to the internet gateway and to the peer network. A route to an ENI that is
//     not attached drops its packets. The router drops and counts a packet that a route
//     leads to an ENI which does not own the destination, unless the source/destination
//     check of that ENI is off.
//   - It applies network ACLs between subnets, and the security groups of both ENIs.
//     Package vpcrules describes them, and computes the same as the router does.
//   - It can record a flow log in AWS's format.
//   - A branch ENI is a VLAN on the link of its trunk ENI. All rules apply to it as
//     to other ENIs.
//   - The peer network (a data centre behind a transit gateway, for example) can
//     reach every address of the VPC.
//   - The instance metadata service at 169.254.169.254 and fd00:ec2::254 answers
//     for the instance that owns the source address of the request.
//   - The resolver, see [Fabric.ServeDNS], answers the private names of addresses.
//   - A network load balancer, see [Fabric.AddBalancer], passes flows on to healthy
//     targets, which see the address of the client.
//
// Without route tables, network ACLs and groups, which [Fabric.SetRules] sets, every subnet
// has a route to the internet gateway and to the peer network, and nothing is filtered. No
// rule filters the traffic with the router's own addresses, which the services have.
//
// On a kernel without IPv6 the VPC has IPv4 only.
//
// The package creates namespaces and mounts in the current namespaces. Run it
// inside internal/isolate, where it works for root and for an ordinary user.
package fabric
