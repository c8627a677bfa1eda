// SPDX-License-Identifier: Apache-2.0

// Package netpol computes what the pods of one node may receive and send, from the
// NetworkPolicies, ClusterNetworkPolicies, namespaces and pods of a Kubernetes cluster. It knows these objects as small
// values of its own and imports no package of Kubernetes. Its result is in terms of package
// policy: a class for each pod that a policy selects.
//
// [Node] is told of each change, and computes again only what the change can reach:
//
//	pod of this node ─▶ the policies of its namespace that select it ─▶ class
//	class ─▶ rules ─▶ peers by selectors ─▶ group of pods ─▶ addresses
//	pod of any node ─▶ the groups of its namespace ─▶ the classes that use them
//
// Pods that the same policies select share a class, unless a named port of an ingress rule has
// different numbers in them. Peers with the same selectors share a group. There are groups only
// for the policies that select a pod of this node.
//
// # What a policy means
//
// The meaning is that of the NetworkPolicy API; see
// https://kubernetes.io/docs/concepts/services-networking/network-policies. Where the API
// leaves a choice, this is the one here:
//
//   - A named port of an ingress rule is that of the selected pod. A named port of an egress
//     rule is that of the peer, also of a peer that a block of addresses or a rule without
//     peers has. The ports of init containers that run as long as the pod count. A name that
//     no container has allows nothing.
//   - A pod is a peer from the moment it has an address until its phase is Succeeded or Failed
//     or the object is deleted, whether or not it is ready.
//   - A pod in the network of its node is never selected. It is a peer of the selectors of
//     a NetworkPolicy only with [Config].HostNetworkPeers, because all packets of its node have the same address.
//   - A block of addresses applies to the addresses of pods, too. It has one family.
//   - ClusterNetworkPolicies of one tier with the same priority decide in the order of their
//     names. Their selectors never have pods in the network of a node.
//   - What the API server refuses, and only an older object can have, allows nothing: a range
//     of ports that ends before it begins, a peer without a selector and a block, a selector
//     with an unknown operator.
package netpol
