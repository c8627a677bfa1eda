// SPDX-License-Identifier: Apache-2.0

// Package eks decides, from objects of Kubernetes, what a node agent does for the pods of its
// node. The objects, their labels and their annotations are those of the networking of Amazon
// EKS, so that existing manifests work. The package imports no package of Kubernetes.
package eks
