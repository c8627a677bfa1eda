// SPDX-License-Identifier: Apache-2.0

// Package fabric builds a VPC out of network namespaces on one machine, with
// real packets: what AWS does to a packet between two instances, a router
// namespace does here.
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
// The rules of the router are those of a VPC:
//
//   - A packet goes to the ENI that owns its destination address, whatever
//     subnet it is in and whichever instance asks. An address that no ENI owns
//     is answered by nobody.
//   - A packet whose source the sending ENI does not own is dropped and counted
//     (EC2's source/destination check).
//   - The gateway of each subnet answers ARP for itself and for every address
//     owned elsewhere in the VPC, so that a connected subnet route works. For
//     IPv6 the gateway is fe80:ec2::1.
//   - Only the primary private IPv4 address of an ENI marked public passes the
//     internet gateway; other private sources are dropped and counted there. IPv6
//     addresses are public by nature and pass. Unlike AWS, the internet sees the
//     private address itself, for there is no second translation; that makes it
//     easy to see which address left the node.
//   - A branch ENI is a VLAN on the link of its trunk ENI, and an ENI as any other.
//   - The peer network (a data centre behind a transit gateway, say) sees every
//     address of the VPC.
//   - 169.254.169.254 and fd00:ec2::254 are the instance metadata service, and
//     answer for the instance that owns the source address of the question.
//
// Everything is made below the current namespaces: run it inside
// internal/isolate, where it works for root and for an ordinary user.
package fabric
