// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

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
	// Handle.LookupAddrs can look past it into table main; and before all that would
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
	// PriorityInSandbox chooses the interface inside a pod with several.
	PriorityInSandbox = 1
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

// RuleProtocol marks our rules: RTPROT_KERNEL, because systemd-networkd deletes
// rules of every other protocol that it did not make itself.
const RuleProtocol = 2

// HeldProtocol marks the routes of TableHeld: RTPROT_KERNEL again, because
// systemd-networkd deletes routes without a link that it did not make. The table's number
// says that they are ours.
const HeldProtocol = 2

// LinkGroupRetired is the link group of host links whose pod is gone and which
// Handle.Sweep removes together.
const LinkGroupRetired = 118

// LinkGroupEnding is the link group of host links while DelPod and RetirePod take
// them apart, so that Watch does not put anything back.
const LinkGroupEnding = 119

// LinkGroupWiring is the link group of host links from their creation until AddPod has
// given them all that belongs to them. Until then Watch wants nothing of the pod.
const LinkGroupWiring = 120

// Ending reports whether a host link of that group has no pod any more.
func Ending(group int) bool { return group == LinkGroupRetired || group == LinkGroupEnding }

// Passing reports whether an AddPod or DelPod is at work on a host link of that group.
func Passing(group int) bool { return Ending(group) || group == LinkGroupWiring }

// DefaultHostLinkPrefix begins the names of host links. Network policy engines
// expect it.
const DefaultHostLinkPrefix = "eni"

// OwnedRule reports whether r is a rule of this package.
func OwnedRule(r netstate.Rule) bool {
	if r.Protocol != RuleProtocol || r.Other != "" {
		return false
	}
	switch r.Priority {
	case PriorityBranch, PriorityForged, PriorityToPod, PriorityPrimaryMark, PriorityHeld, PriorityService, PriorityFromPod, PriorityFromENI:
		return true
	}
	return false
}

const (
	// StrictPrefix begins the names of host links under Strict instead of the
	// node's prefix, so that no rule for other pods applies.
	StrictPrefix = "vlan"
	// BranchPrefix begins the names of VLAN links.
	BranchPrefix = "vlan.eth."
	// branchTables is added to the VLAN ID.
	BranchTableOffset = 100
)

// EarlyDemux is for both families.
const EarlyDemux = "net.ipv4.ip_early_demux"

var (
	Metadata4 = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	Router6   = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 2: 0x0e, 3: 0xc2, 15: 1})
	Metadata6 = netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54})
)

// IsBranchLink reports whether a link's routes and rules belong to pods on
// branch ENIs.
func IsBranchLink(name string) bool { return strings.HasPrefix(name, StrictPrefix) }
