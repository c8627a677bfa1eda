// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// Everything in a node's kernel that is shared with other programs and claimed
// by this package stands in this file: rule priorities, route tables, marks and
// names. What carries none of these is never changed.

// Rule priorities. They are those of amazon-vpc-cni-k8s, so that rules of other
// programs written against that plugin keep their place; lower ones are looked
// up first. 513 to 1023 and 1025 to 1533 stay free for others.
const (
	// PriorityToPod sends packets for pods of this node to their links before
	// any mark or source can send them out.
	PriorityToPod = 512
	// PriorityPrimaryMark sends packets with MarkPrimary out by the primary ENI,
	// and in the layout PerPod those with the number of another ENI by that one.
	// The latter is the one kind of rule that amazon-vpc-cni-k8s does not have: what
	// comes in for the node at another ENI's own address could not be answered.
	PriorityPrimaryMark = 1024
	// PriorityHeld refuses packets to addresses that the node holds and no pod has. It
	// comes behind what leads to pods, and behind PriorityPrimaryMark, so that
	// [Handle.LookupAddrs] can look past it into table main; and before all that would
	// send such packets out.
	PriorityHeld = 1534
	// PriorityService sends packets for Node.ServicePrefixes out by the primary
	// ENI; it stands just before PriorityFromPod.
	PriorityService = 1535
	// PriorityFromPod chooses the ENI of a pod's packet.
	PriorityFromPod = 1536
	// PriorityFromENI chooses the ENI for packets from an ENI's own address. It
	// comes just before the kernel's own rule for table main, 32766.
	PriorityFromENI = 32765
	// priorityInSandbox chooses the interface inside a pod with several.
	priorityInSandbox = 1
	// PriorityBranch sends packets from a pod on a branch ENI, and from that ENI,
	// to its table, under [Strict].
	PriorityBranch = 10
	// PriorityForged drops, under [Strict], what comes from a pod on a branch ENI
	// with a source that is not the pod's.
	PriorityForged = 11
	// PriorityLocal is where the lookup of the node's own addresses is under
	// [Strict], instead of 0.
	PriorityLocal = 20
)

// Packet marks use one byte, so that the other 24 bits stay with their owners
// (kube-proxy has 0x4000 and 0x8000). A mark is always set as
// (mark &^ MarkMask) | value.
const (
	// MarkPrimary on a packet or a connection means: leave by the primary ENI.
	MarkPrimary = 0x80
	// MarkENI is the mask of the ENI number; 0 is no choice. The flat layout
	// chooses by source; and in both, package snat may choose for the answer to what
	// came in by that ENI.
	MarkENI = 0x7f
	// MarkMask covers both.
	MarkMask = MarkPrimary | MarkENI
)

// Route tables.
const (
	// TableMain is the kernel's main table, which serves the primary ENI.
	TableMain = 254
	// TablePods holds the routes to the pods of this node in the flat layout.
	TablePods = 20000
	// TableNowhere drops everything; PriorityForged leads to it.
	TableNowhere = 20001
	// TableHeld answers for all addresses of ENI.Sources with unreachable, but for
	// those of Node.InUse, about which the tables behind it decide. It is apart from
	// the tables with routes to pods, so that nothing that makes or deletes a pod's
	// route meets one of its routes, and the same in both layouts.
	TableHeld = 20002
)

// RouteProtocol marks our routes. The numbers that the kernel and the routing
// daemons use are in /etc/iproute2/rt_protos; 118 is in none of them.
const RouteProtocol = 118

// ruleProtocol marks our rules: RTPROT_KERNEL, because systemd-networkd deletes
// rules of every other protocol that it did not make itself.
const ruleProtocol = 2

// heldProtocol marks the routes of TableHeld: RTPROT_KERNEL again, because
// systemd-networkd deletes routes without a link that it did not make. The table's number
// says that they are ours.
const heldProtocol = 2

// LinkGroupRetired is the link group of host links whose pod is gone and which
// [Handle.Sweep] removes together.
const LinkGroupRetired = 118

// linkGroupEnding is the link group of host links while DelPod and RetirePod take
// them apart, so that Watch does not put anything back.
const linkGroupEnding = 119

// linkGroupWiring is the link group of host links from their creation until AddPod has
// given them all that belongs to them. Until then Watch wants nothing of the pod.
const linkGroupWiring = 120

// ending reports whether a host link of that group has no pod any more.
func ending(group int) bool { return group == LinkGroupRetired || group == linkGroupEnding }

// passing reports whether an AddPod or DelPod is at work on a host link of that group.
func passing(group int) bool { return ending(group) || group == linkGroupWiring }

// DefaultHostLinkPrefix begins the names of host links. Network policy engines
// expect it.
const DefaultHostLinkPrefix = "eni"

// FilterTable is the name of our nftables table, of family inet.
const FilterTable = "vpcnet"

// Table returns the route table of the ENI at a network card index and device
// index: 254 (main) for the primary ENI, device+1 on card 0, and
// 10000 + 100*card + device on other cards. The numbers are those of
// amazon-vpc-cni-k8s.
func Table(card, device int) int {
	switch {
	case card == 0 && device == 0:
		return TableMain
	case card == 0:
		return device + 1
	default:
		return 10000 + 100*card + device
	}
}

// isENITable reports whether t may be the table of an address: 0 or any of Table.
func isENITable(t int) bool {
	return t >= 0 && t < tableDefault || t == TableMain || t >= Table(1, 0) && t <= Table(99, 99)
}

// Number returns the default ENI number, 1 to 127, that stands in the mark of
// packets from pods on the ENI at a network card index and device index, and 0
// for the primary ENI. There are more places than numbers, so that far places
// share one, but no two on any shape of instance that EC2 offers: 16 interfaces
// on up to 7 cards, 8 on 8, 7 on 16, 3 on 32. [Node.Validate] finds a clash, and
// ENI.Number solves it.
func Number(card, device int) int {
	n := 0
	switch {
	case card == 0:
		return device % 128
	case device < 3:
		n = 16 + (card-1)*3 + device
	case device < 7:
		n = 127 - (card-1)*4 - (device - 3)
	default:
		n = 99 - (card-1)*9 - (device - 7)
	}
	return max(1, min(n, MarkENI))
}

// Gateway returns the address that a pod sends its packets to on its n-th
// interface, from 0 to 254: 169.254.1.(n+1) or fe80::(n+1). No interface has
// that address; the pod knows the host link's MAC by a permanent neighbour.
func Gateway(addr netip.Addr, n int) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{169, 254, 1, byte(n + 1)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(n + 1)})
}
