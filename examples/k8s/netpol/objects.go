// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

// Namespace is a namespace of the cluster.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Pod is a pod of the cluster, on any node.
type Pod struct {
	Namespace, Name string
	// UID is the one that the container runtime knows. For a static pod that is not the UID of
	// its object.
	UID string
	// Node is the name of the node to which the pod is bound, "" as long as there is none.
	Node   string
	Labels map[string]string
	// Addrs are the addresses of the pod, those of its node if HostNetwork is set.
	Addrs []netip.Addr
	// Ports are the named ports of its containers.
	Ports []Port
	// HostNetwork means that the pod is in the network of its node.
	HostNetwork bool
	// Ended means that the phase is Succeeded or Failed: the addresses can belong to another
	// pod.
	Ended bool
}

// Port is a named port of a container.
type Port struct {
	Name     string
	Protocol policy.Protocol
	Number   uint16
}

// Policy is a NetworkPolicy.
type Policy struct {
	Namespace, Name string
	// Pods selects the pods of the namespace to which the policy applies.
	Pods Selector
	// Ingress and Egress are the rules for a direction. Nil means that the policy says
	// nothing about the direction; no rules mean that it isolates the pods.
	Ingress, Egress *Rules
}

// Rules allow the union of what each of them allows.
type Rules []Rule

// Rule allows connections with Peers by Ports.
type Rule struct {
	// Peers are the other ends. None means all addresses.
	Peers []Peer
	// Ports are destination ports. None means all ports of all protocols.
	Ports []PolicyPort
}

// ClusterPolicy is a ClusterNetworkPolicy.
type ClusterPolicy struct {
	Name string
	Tier Tier
	// Priority orders the policies of a tier, the lowest first, and those with the same one by
	// their names.
	Priority int
	// Namespaces and Pods select the pods to which the policy applies, as in a [Peer].
	Namespaces, Pods *Selector
	// Ingress and Egress are the rules in their order: the first one with a connection decides.
	Ingress, Egress []ClusterRule
}

// Tier says when a [ClusterPolicy] decides.
type Tier bool

// The tiers: before the NetworkPolicies, and after them for pods that none of them isolates.
const (
	Admin    Tier = false
	Baseline Tier = true
)

// ClusterRule is a rule of a [ClusterPolicy].
type ClusterRule struct {
	Name   string // for people; it decides nothing
	Action policy.Action
	Rule
}

// Peer is a set of other ends: a block of addresses, or pods. The zero Peer is empty.
type Peer struct {
	// Block is a block of addresses without some parts of it. Nil means that the selectors
	// say which pods the peer has.
	Block *Block
	// Namespaces selects the namespaces of the pods. Nil means that of the policy; a
	// [ClusterPolicy] has none, so that the peer is empty.
	Namespaces *Selector
	// Pods selects pods of these namespaces. Nil means all, if Namespaces is not nil.
	Pods *Selector
}

// Block is a block of addresses without some parts of it.
type Block struct {
	Prefix netip.Prefix
	Except []netip.Prefix
}

// PolicyPort is a port of a rule. With neither Name nor First it is all ports of the protocol.
type PolicyPort struct {
	Protocol policy.Protocol
	// Name is the name of a port of a pod.
	Name string
	// First and Last are the ends of a range of ports, which both belong to it. Last is 0 for
	// First alone. A range that ends before it begins is empty.
	First, Last uint16
}

// Selector selects objects by their labels: those that meet all of Labels and Expressions. The
// zero Selector selects every object.
type Selector struct {
	// Labels are labels that an object must have.
	Labels      map[string]string
	Expressions []Expression
}

// Expression is a condition on a label.
type Expression struct {
	Key      string
	Operator Operator
	Values   []string
}

// Operator is the operator of an [Expression].
type Operator string

// The operators. NotIn and DoesNotExist hold for an object without the label. An expression
// with another operator, or with values that do not go with its operator, holds for no object.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)
