// SPDX-License-Identifier: Apache-2.0

// Package k8s is a module with what vpcnet does in Kubernetes. It is a module of its own,
// because client-go would be in the module graph of the libraries.
//
//   - netpol computes what the pods of a node may receive and send, from NetworkPolicies,
//     namespaces and pods. It imports no package of Kubernetes.
//   - kubepolicy watches these objects in the API server, and is the Policies of an agent of
//     package ipamd.
//   - eks decides what else a node agent does because of objects of Kubernetes. It imports no
//     package of Kubernetes either.
//   - kubenode watches these objects, as far as they concern one node.
//   - vpcnet-node is the node agent with all of this.
package k8s
