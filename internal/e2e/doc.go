// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the programs of a node beside the kube-proxy of Kubernetes and the plugin
// portmap, in a VPC of package vpctest. The tests judge by packets.
//
// kube-proxy needs no cluster: the tests serve the objects that it reads. Package programs
// builds it.
//
//	go test ./...              # a table in which each pair of settings occurs
//	go test ./... -args -long  # every combination of settings
package e2e
