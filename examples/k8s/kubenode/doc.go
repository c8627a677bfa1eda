// SPDX-License-Identifier: Apache-2.0

// Package kubenode connects an agent of package ipamd with the API server of Kubernetes, as far
// as that concerns its own node. What follows from the objects is decided in package eks.
//
//   - [Pods] knows the pods that are bound to the node. It is the Demand of the agent, and adds
//     what annotations of a pod ask for to the request of its ADD.
//   - [Events] writes an event for a pod with a failed ADD.
//   - [Networks] has the subnet and the security groups of the node's ENIConfig.
//   - [Settings] has settings of the agent from a ConfigMap and from annotations of the node.
//
// Each adapter watches no more than it needs: the pods of the node, for example, by a field
// selector. It starts without the API server, and goes on without it with what it knows.
//
// # Rights
//
// The client needs these verbs, each adapter those of its line:
//
//	Pods      list, watch  pods
//	Events    create, patch  events
//	Networks  list, watch  nodes, eniconfigs.crd.k8s.amazonaws.com
//	Settings  list, watch  configmaps in the namespace of the ConfigMap; nodes for annotations
package kubenode
