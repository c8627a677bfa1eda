// SPDX-License-Identifier: Apache-2.0

// Package datapath makes, verifies, repairs and explains the network of a node
// and its pods: links, addresses, neighbours, routes, rules and marks.
//
// # The way of a packet
//
// A pod has one end of a veth pair with its VPC address, as a single address, and
// sends everything to 169.254.1.1 (fe80::1), which no interface has: a permanent
// neighbour entry gives it the MAC of the other end, on the node.
//
//	pod eth0 10.0.0.101/32                                     node
//	  default via 169.254.1.1 ──▶ eni1a2b… ─▶ prerouting ─▶ rules ─▶ ens6 ──▶ VPC
//	                                │          (table inet vpcnet)
//	                                │ 1 is the way back to the source this link? else drop
//	                                │ 2 source4: 10.0.0.101 ─▶ mark 0x01 (ENI number 1)
//
// Out, in the layout [Flat]: the packet comes in at its host link and meets our
// nftables table before routing. It is dropped unless a packet to its source would
// leave by the same link; so a pod can send with no address but its own, in either
// family, at a cost that does not depend on how many pods there are. A map from
// source addresses and prefixes to ENIs sets the ENI's number in the packet's
// mark. Then come the rules:
//
//	512    lookup 20000                   to a pod of this node? straight to its link
//	1024   fwmark 0x80/0x80 lookup main   marked for the primary ENI (package snat)
//	1534   lookup 20002                   to an address that no pod has? unreachable
//	1536   fwmark 0x1/0x7f lookup 2       marked for ENI 1: by its table
//	32765  from 10.0.0.20 lookup 2        from ENI 1's own address
//	32766  lookup main                    everything else: by the primary ENI
//
// Table 2 holds the route to the VPC router and the default route by it. A pod on
// the primary ENI has no mark and leaves by table main.
//
// In, either layout: the VPC delivers a packet for 10.0.0.101 to the ENI that owns
// the address. Rule 512 finds the route to the pod's host link, and the permanent
// neighbour entry there the pod's MAC, so that nothing waits for ARP or neighbour
// discovery. Loose reverse path filtering (rp_filter 2) lets it in although the way
// back, which the mark decides, is not yet known.
//
// The layout [PerPod] is that of amazon-vpc-cni-k8s. A pod's route is in table
// main, and each pod has its own rules,
//
//	512    to 10.0.0.101 lookup main
//	1536   from 10.0.0.101 lookup 2
//
// which the kernel goes through one by one for each packet. A rule for each ENI,
// 1024 fwmark 0x1/0xff lookup 2, is for answers that package snat marks. Table 20002
// is as in the other layout: it refuses what is for an address of the node's ENIs that
// no pod has, at once, unless another program uses the address ([Node.InUse]).
//
// # Values and effects
//
// [Node.State], [Pod.HostState] and [Pod.SandboxState] compute what should be,
// as a [State]: plain values, whose text is the script of ip and nft commands that
// would make it. [Handle.Observe] reads what is, [Diff] finds the changes, and
// [Handle.Apply] carries them out. [Handle.EnsureNode] does all of it for a node.
// Pods take a direct way, because a runtime waits for them: [Handle.AddPod] and
// [Handle.DelPod] need a few system calls, whatever else is on the node.
//
// Everything is keyed by container and interface, and its names and MACs derive
// from that key. So each step can be repeated, a killed ADD is finished or undone
// by the next ADD or DEL, and DEL needs no record of what ADD did.
//
// [Handle.Watch] hears of each change that others make, and puts back what is ours.
// [Trace] explains the way of a packet from values alone, names its faults and what
// it cannot judge, and [Handle.Confirm] compares that with the kernel's own answer.
//
// # Modes
//
// A pod need not have a veth pair that the layout routes: [Mode] also knows a
// [WholeENI] for the pod alone, an [IPVLAN] link beside the veth pair, a [Branch]
// ENI with security groups of its own, and a [Bridge]. A pod with several interfaces
// has one [Pod] value for each, with an Index. Each mode's documentation says what
// checks the source of its packets.
//
// # Ownership
//
// What belongs to this package is marked: routes by protocol number 118 or by a table of
// our own, rules by priority, everything in its nftables table, and addresses and routes on secondary
// ENIs, whose links are its own. [Node.Owned] says it exactly. The rest of the
// system is never changed.
package datapath
