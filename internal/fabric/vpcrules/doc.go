// SPDX-License-Identifier: Apache-2.0

// Package vpcrules computes how a VPC treats a packet: the choice of the route, network
// ACLs, security groups with their connection tracking, and flow log records. It has
// values in and values out and uses only the standard library.
//
// A packet from one ENI to another passes these stages in order:
//
//  1. the source check of the sending ENI
//  2. the VPC route table of the sending ENI's subnet; the longest prefix wins
//  3. the security groups of the sending ENI, outbound
//  4. the network ACL of its subnet, outbound
//  5. the internet gateway, if the packet goes to the internet; a packet from there passes
//     the gateway first
//  6. the destination check of the receiving ENI
//  7. the network ACL of the receiving ENI's subnet, inbound
//  8. the security groups of the receiving ENI, inbound
//
// A network ACL does not see a packet between two ENIs of one subnet. Neither ACLs nor
// security groups filter the traffic with the router itself: the gateway addresses, the
// instance metadata service, the resolver, and DHCP
// (https://docs.aws.amazon.com/vpc/latest/userguide/vpc-network-acls.html).
//
// # Connection tracking
//
// A security group rule allows a new flow. The ENI then tracks the flow, and packets of
// a tracked flow pass in both directions, even after a change of the rules, until the
// flow was idle for its timeout. A flow of TCP or UDP is not tracked if the rule that
// allows it has the peer 0.0.0.0/0 or ::/0 and a rule of the other direction allows
// all ports of the same protocol with the same peer. The packets of such a flow pass by
// the rules only, so a change of the rules takes effect on them at once
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html).
//
// The following points simplify what AWS does. The timeouts are constants. Tracking of a
// TCP connection begins with a segment that has SYN and not ACK. Such a segment always
// needs a rule, so that a new connection does not pass as a part of an old one; the end of
// a connection does not end its tracking. An ICMP error passes if the packet that it quotes belongs to a tracked flow. Fragments other
// than the first have no ports and always pass.
package vpcrules
