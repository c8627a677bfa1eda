// SPDX-License-Identifier: Apache-2.0

// Package policy limits which connections the pods of a node have, with at most four lookups
// for each packet, however many policies and pods there are.
//
// A [Class] says what a pod may receive and send. [Compile] makes disjoint boxes of it:
// ranges of addresses, protocols and ports. A [State] has the classes and the class of each
// pod, and a [Handle] puts it into a table of nftables of its own. [Judge] is the meaning of
// a class, without the kernel.
//
// A class has rules that allow, and lists of ordered rules before and after them that accept,
// deny or pass on. [Compile] decides between them, so that the kernel has only what is allowed.
//
// # The way of a packet
//
//	pod ── eni… ─▶ prerouting   -100 kube-proxy: the destination is now the endpoint
//	               forward         0 chain forward
//	                                 about another flow (ICMP errors)? accept
//	                                 a reply? chain replies
//	                                 source in map out4?     chain out-CLASS
//	                                 destination in map in4? chain in-CLASS
//	               postrouting   100 kube-proxy: masquerading
//
// The chain of a class looks the packet up in one set of boxes, returns if the set has it,
// and drops it otherwise. So a packet needs at most four lookups: two for its pods and two
// for their boxes. The maps have only pods that are isolated in the direction. The hook is
// after destinations are rewritten and before sources are, so that policies see the pod
// behind a Service and the client in front of it, in every mode of kube-proxy but IPVS, whose
// packets do not pass the hook.
//
// The node reaches its own pods, and they reach it, whatever the classes say: these packets
// are not forwarded. A pod reaches itself by a Service: the sets self4 and self6 have the
// pairs of each pod with itself.
//
// # Connections
//
// A reply is looked up in the same set as what it replies to, with source and destination
// exchanged. Every packet is judged so by the first packet of its connection. A change takes
// effect at once, also for open connections; what both the old and the new rules allow goes
// on. Only connection tracking says what a reply is: a new connection from the port of an
// allowed server is judged as what it is. A connection that was open before connection
// tracking knew it can have its directions exchanged.
//
// An IP payload of less than four bytes matches no box. Fragments are reassembled before the
// hook. Errors of ICMP about a flow pass also if the flow is denied.
//
// # Denials
//
// The last rule of a class's chain counts and drops; [Handle.Denied] reads the counts. With
// [State.LogLimit] a rule before it sends some of the packets to group 30118 of nflog, which
// [Handle.Denials] receives. Packets that pass meet neither of the two. The kernel has only what is
// allowed, so counts are by class and direction.
//
// # Modes of pods
//
// All packets of pods with a veth pair, in both layouts, and of pods with a branch ENI pass
// the forward hook. Packets between pods on one bridge do not, nor those of ipvlan links and
// of ENIs in a sandbox. This package does not limit such pods; package ipamd refuses them if
// a policy isolates them.
//
// # Changes by other programs
//
// From Linux 6.9 on the table belongs to the handle that has applied it: the kernel refuses
// changes by other programs, and a flush of the ruleset leaves the table alone. After the end
// of the process the table stays as it is, but every program can change it until the next
// process applies a State. On older kernels a flush of the ruleset deletes the table, and all
// packets pass until [Handle.Watch] has made it again, a few milliseconds later: nftables has
// nothing else there that could stop them.
//
// A change is made in one transaction, or in two if it brings new classes: their chains come
// first, because a packet on its way would meet them empty otherwise. Boxes that are in the
// old and in the new set stay in their place. To delete tens of thousands of boxes from a set
// takes the kernel minutes; to delete a class does not.
package policy
