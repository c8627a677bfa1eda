// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the programs of a node beside the kube-proxy of Kubernetes and the plugin
// portmap, in a VPC of package vpctest. The tests judge by packets.
//
// kube-proxy is built from the module in the directory kubeproxy, which has the versions of
// its release, and kept in a cache directory. It needs no cluster: the tests serve the objects
// that it reads.
//
//	go test ./...              # a table in which each pair of settings occurs
//	go test ./... -args -long  # every combination of settings
//
// The directory of the cache is that of the environment variable VPCNET_E2E_CACHE; if this is
// empty, it is vpcnet-e2e in the user's cache directory.
package e2e
