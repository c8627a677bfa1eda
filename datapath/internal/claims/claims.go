// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Rule priorities. Lower ones are evaluated first. They are those of amazon-vpc-cni-k8s,
// so that rules of other programs that were written for that plugin keep their place.
// Priorities 513 to 1023 and 1025 to 1533 stay free for other programs.
const (
	// PriorityToPod sends packets for pods of this node to their links, before a mark
	// or a source address can select an ENI.
	PriorityToPod = 512
	// PriorityPrimaryMark sends packets with MarkPrimary out by the primary ENI. In
	// the layout PerPod it also sends packets with the number of another ENI out by
	// that ENI. amazon-vpc-cni-k8s has no such rules; without them the node cannot
	// answer packets that arrive at another ENI's own address.
	PriorityPrimaryMark = 1024
	// PriorityHeld refuses packets to addresses that the node holds but no pod has. It
	// comes after the routes to pods, and after PriorityPrimaryMark so that
	// Handle.LookupAddrs can bypass it with a mark. It comes before every rule that
	// would send such packets out.
	PriorityHeld = 1534
	// PriorityService sends packets for Node.ServicePrefixes out by the primary ENI. It
	// comes directly before PriorityFromPod.
	PriorityService = 1535
	// PriorityFromPod selects the ENI for packets from a pod.
	PriorityFromPod = 1536
	// PriorityFromENI selects the ENI for packets from an ENI's own address. It comes
	// directly before the kernel's rule for table main, 32766.
	PriorityFromENI = 32765
	// PriorityInSandbox selects the interface inside a pod that has several.
	PriorityInSandbox = 1
	// LastInSandbox plus the index of an interface is the priority of a rule
	// inside a pod that has several. The rule leads packets without a route in table main
	// to the table of that interface. It comes directly after the kernel's last rule,
	// 32767, so that it never replaces a route of another program.
	LastInSandbox = 32767
	// PriorityBranch sends packets from a pod on a branch ENI, and packets that arrive
	// on that ENI, to the ENI's table, under Strict.
	PriorityBranch = 10
	// PriorityForged drops, under Strict, packets from a pod on a branch ENI with a
	// source that is not an address of the pod.
	PriorityForged = 11
	// PriorityLocal is the priority of the rule for table local under Strict, instead
	// of 0.
	PriorityLocal = 20
)

// Packet marks use the lowest byte and leave the other 24 bits to other programs:
// kube-proxy uses 0x4000 and 0x8000. A mark is always set as (mark &^ MarkMask) | value.
const (
	// MarkPrimary on a packet or a connection selects the primary ENI.
	MarkPrimary = 0x80
	// MarkENI is the mask of the ENI number; number 0 selects no ENI. The layout Flat
	// sets the number by source. In both layouts, package snat may set it on answers to
	// packets that arrived by that ENI.
	MarkENI = 0x7f
	// MarkMask is the mask of both.
	MarkMask = MarkPrimary | MarkENI
)

// Route tables.
const (
	// TablePods holds the routes to the pods of this node in the flat layout.
	TablePods = 20000
	// TableNowhere drops every packet. The rules of PriorityForged use it.
	TableNowhere = 20001
	// TableHeld refuses packets to all addresses of ENI.Sources except those in
	// Node.InUse, about which later tables decide. It is separate from the tables with
	// routes to pods, so that adding or deleting a pod's route never affects its
	// routes. It is the same in both layouts.
	TableHeld = 20002
)

// RouteProtocol marks our routes. /etc/iproute2/rt_protos lists the numbers of the
// kernel and of routing daemons; 118 is not among them.
const RouteProtocol = 118

// RuleProtocol marks our rules. It is RTPROT_KERNEL, because systemd-networkd deletes
// rules of every other protocol unless it has created them itself.
const RuleProtocol = 2

// HeldProtocol is the protocol of the routes in TableHeld. It is RTPROT_KERNEL, because
// systemd-networkd deletes routes of other protocols that have no link, unless it has
// created them itself. The number of the table marks these routes as ours.
const HeldProtocol = 2

// LinkGroupRetired is the link group of host links after their pods have ended.
// Handle.Sweep deletes them together.
const LinkGroupRetired = 118

// LinkGroupEnding is the link group of a host link while DelPod or RetirePod removes
// what belongs to it. It tells Watch not to restore anything.
const LinkGroupEnding = 119

// LinkGroupWiring is the link group of a host link from its creation until AddPod is
// done. Until then Watch restores nothing that belongs to the pod.
const LinkGroupWiring = 120

// RetiredName returns the name of a link of a veth pair after its pod has ended, on either
// side: prefix, a hyphen, and the number of the link in its namespace in hexadecimal. The
// name of a pod's host link has no hyphen after the prefix. The prefix is at most 4 bytes
// long.
func RetiredName(prefix string, index int) string { return fmt.Sprintf("%s-%x", prefix, index) }

// Ending reports whether the pod of a host link in that group has ended or is ending.
func Ending(group int) bool { return group == LinkGroupRetired || group == LinkGroupEnding }

// Changing reports whether the pod of a host link in that group is being added, or has
// ended or is ending.
func Changing(group int) bool { return Ending(group) || group == LinkGroupWiring }

// DefaultHostLinkPrefix begins the names of host links. Network policy engines of
// amazon-vpc-cni-k8s expect it.
const DefaultHostLinkPrefix = "eni"

// EgressPrefix4 and EgressPrefix6 begin the names of the node's links to pods with egress of
// the other family. Package snat has the same names.
const (
	EgressPrefix4 = "eg4"
	EgressPrefix6 = "eg6"
)

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

// Names and tables of branch ENIs.
const (
	// StrictPrefix begins the names of host links under Strict. It replaces the node's
	// prefix, so that no rule for other pods matches.
	StrictPrefix = "vlan"
	// BranchPrefix begins the names of VLAN links.
	BranchPrefix = "vlan.eth."
	// BranchTableOffset plus the VLAN ID is the number of a branch ENI's route table.
	BranchTableOffset = 100
)

// EarlyDemux is the setting of early demultiplexing. It applies to both families.
const EarlyDemux = "net.ipv4.ip_early_demux"

// Addresses that EC2 gives to the instance metadata service and to the VPC router.
var (
	Metadata4 = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	Router6   = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 2: 0x0e, 3: 0xc2, 15: 1})
	Metadata6 = netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54})
)

// IsBranchLink reports whether the link of that name belongs to a pod on a branch ENI.
func IsBranchLink(name string) bool { return strings.HasPrefix(name, StrictPrefix) }

// Gateway returns the address that a pod sends its packets to on its n-th interface,
// from 0 to 254: 169.254.1.(n+1) or fe80::(n+1). No interface has that address; the pod
// knows the MAC of its host link by a permanent neighbour entry.
func Gateway(addr netip.Addr, n int) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{169, 254, 1, byte(n + 1)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(n + 1)})
}
