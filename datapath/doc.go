// SPDX-License-Identifier: Apache-2.0

// Package datapath creates, verifies and repairs the network of a node and its pods:
// links, addresses, neighbours, routes, rules and packet marks. Package
// [github.com/vpcnet/vpcnet/datapath/netstate] has the values that describe a network,
// and package [github.com/vpcnet/vpcnet/datapath/trace] explains the way of a packet.
//
// # The way of a packet
//
// A pod has one end of a veth pair with its VPC address as a single address. It sends
// every packet to the gateway 169.254.1.1 (fe80::1), an address that no interface has:
// a permanent neighbour entry in the pod holds the MAC of the other end of the pair,
// which is on the node.
//
//	pod eth0 10.0.0.101/32                                     node
//	  default via 169.254.1.1 ──▶ eni1a2b… ─▶ prerouting ─▶ rules ─▶ ens6 ──▶ VPC
//	                                │          (table inet vpcnet)
//	                                │ 1 is the way back to the source this link? else drop
//	                                │ 2 source4: 10.0.0.101 ─▶ mark 0x01 (ENI number 1)
//
// Outbound, in the layout [Flat]: the packet arrives on its host link and passes our
// nftables table before routing. The table drops it unless a packet to its source would
// leave by the same link, so that a pod can send from its own addresses only. This
// check covers both families, and its cost does not depend on the number of pods. A map
// from source addresses and prefixes to ENIs then sets the number of the ENI in the
// packet's mark. After that come the rules:
//
//	512    lookup 20000                   to a pod of this node? straight to its link
//	1024   fwmark 0x80/0x80 lookup main   marked for the primary ENI (package snat)
//	1534   lookup 20002                   to an address that no pod has? unreachable
//	1536   fwmark 0x1/0x7f lookup 2       marked for ENI 1: by its table
//	32765  from 10.0.0.20 lookup 2        from ENI 1's own address
//	32766  lookup main                    everything else: by the primary ENI
//
// Table 2 holds the route to the VPC router and the default route through it. Packets
// of a pod on the primary ENI have no mark and leave by table main.
//
// Inbound, in either layout: the VPC delivers a packet for 10.0.0.101 to the ENI that
// owns the address. Rule 512 finds the route to the pod's host link, where a permanent
// neighbour entry holds the pod's MAC, so that no packet waits for ARP or neighbour
// discovery. Reverse path filtering is loose (rp_filter 2), because the kernel does not
// know yet which mark, and so which ENI, the answer will have.
//
// The links between node and pods have ARP off and no link-local address. With ARP, a pod
// that may send raw packets could fill the node's neighbour table, which all namespaces of
// the machine share, with requests from made-up addresses.
//
// The layout [PerPod] is that of amazon-vpc-cni-k8s. The route of a pod is in table
// main, and each pod has rules of its own,
//
//	512    to 10.0.0.101 lookup main
//	1536   from 10.0.0.101 lookup 2
//
// which the kernel evaluates one by one for each packet. One rule for each ENI, 1024
// fwmark 0x1/0xff lookup 2, serves answers that package snat marks. Table 20002 is the
// same in both layouts: it refuses packets to addresses of the node's ENIs that no pod
// has, unless another program uses the address ([Node.InUse]).
//
// # Values and effects
//
// [Node.State], [Pod.HostState] and [Pod.SandboxState] compute the wanted network as a
// [netstate.State], a plain value that prints itself as the script of ip and nft
// commands that would create it. [Handle.Observe] reads the present network,
// [netstate.Diff] finds the changes, and [Handle.Apply] carries them out.
// [Handle.EnsureNode] does all of this for a node. Pods take a shorter way, because a
// runtime waits for them: [Handle.AddPod] and [Handle.DelPod] need a few system calls,
// regardless of what else is on the node.
//
// The container ID and the interface name of a pod are its key, from which all its names
// and MACs derive. Each step can therefore be repeated: the next ADD or DEL completes or
// undoes an ADD that was killed, and DEL needs no record of what ADD did.
//
// [Handle.Watch] receives every change that other programs make, and restores what is
// ours.
//
// # Modes
//
// [Mode] lets a pod use something else than a veth pair that the layout routes: a
// [WholeENI] of its own, an [IPVLAN] link beside the veth pair, a [Branch] ENI with its
// own security groups, or a [Bridge]. A pod with several interfaces has one [Pod] value
// for each, with an Index. The documentation of each mode says what checks the source of
// the pod's packets.
//
// # Accelerated flows
//
// With [Node.Accelerate] the table inet vpcnet-flows has a flowtable
// (https://docs.kernel.org/networking/nf_flowtable.html) on the links of ENIs and pods. A
// packet of a pod that continues an established TCP or UDP flow puts the flow into it. From then
// on the kernel forwards packets of the flow as soon as they come in, with the translation of
// addresses and ports of their connection. They do not pass prerouting, routing, the forward
// hook or postrouting:
//
//	pod ── eni… ─▶ flow known by link, addresses and ports? ─▶ ens6 ──▶ VPC
//	                 no, or FIN, RST, fragment, IP option, larger than the MTU: the usual way
//
// The link is part of the key, so that a pod cannot send with the addresses of another one.
// A flow ends with its links, and its next packet takes the usual way after a change of
// routes. A pod with packets that a policy may stop is left out, see [Desired] and [Handle.Limit],
// and so are pods with a [Mode], and packets to the metadata service. Another program that
// drops packets of a flow that is open already, in the forward hook, has no effect.
//
// AddPod does not wait for any of this. [Handle.Watch] adds the links of new pods about a second
// later.
//
// # Nodes that lack something
//
// Only the families of a node's addresses and pods matter. On a kernel without IPv6 the IPv6
// addresses of ENIs are left out, and only a pod with an IPv6 address fails. A node with
// IPv4 alone changes no setting of IPv6, except that AddPod refuses router advertisements on
// new host links.
//
// A process that sees /proc/sys read-only can do everything if the settings have the right
// values: ip_forward and IPv6 forwarding are on, and the links have what [Node.State] lists.
// New links inherit the rest. An error names each setting that has another value, with the
// command that corrects it.
//
// EnsureNode needs nftables, because nothing else checks the sources of pods; its error
// names the modules. Everything else works without.
//
// # Ownership
//
// What belongs to this package is marked as such:
//
//   - routes by protocol number 118, or by table 20002;
//   - rules by protocol kernel and a priority of 10, 11, 512, 1024, 1534, 1535, 1536 or
//     32765, and in sandboxes 1; rules in sandboxes for the table of a second or later
//     interface, 32768 to 33017;
//   - the rule for table local, which [Strict] moves from priority 0 to 20;
//   - the nftables tables inet vpcnet and inet vpcnet-flows;
//   - host links by the prefix of their name, and by link groups 118 to 120 while they
//     are created or deleted. A veth pair that waits for its deletion has reserved names on
//     both sides: the prefix, a hyphen, and the number of the link in hexadecimal;
//   - addresses and routes on the links of secondary ENIs.
//
// [Node.Owned] defines it precisely. The package never changes anything else. Packet
// marks use the lowest byte: bit 0x80 selects the primary ENI, and the other seven bits
// hold the number of an ENI ([Number]).
package datapath
