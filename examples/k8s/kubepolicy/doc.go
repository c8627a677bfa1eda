// SPDX-License-Identifier: Apache-2.0

// Package kubepolicy gives an agent of package ipamd the NetworkPolicies of a Kubernetes
// cluster, and its ClusterNetworkPolicies if the configuration says so. [Policies] watches the
// policies, the namespaces and the pods of all nodes, keeps of
// them what package netpol needs, and has the classes of the pods of one node.
//
// # Without the API server
//
// [Policies] knows nothing before it has read all kinds of objects that it watches. Until then the agent
// leaves the pods of an earlier agent as they are in the kernel, and treats new ones as its
// PolicyMode says. Later it goes on with what it knows for as long as the API server is away.
//
// # The order of events
//
// The API server sends changes of different kinds on different connections, in no common order.
// A policy is sure to limit a pod from its first packet if it was there before the pod and has
// reached the node: a few milliseconds after its creation.
//
// # Rights
//
// The client needs the verbs list and watch of namespaces, pods and networkpolicies
// (networking.k8s.io) in the whole cluster, and of clusternetworkpolicies
// (policy.networking.k8s.io) if it watches these. They are read in version v1beta1, which the
// definitions of network-policy-api have from v0.3.0 on.
package kubepolicy
