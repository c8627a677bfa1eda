// SPDX-License-Identifier: Apache-2.0

// Package cluster tests the programs of a node below real container runtimes, on the instances
// of a VPC of package vpctest. Their daemons are real, and the tests speak with them as their
// clients do; the only image is one that the tests make.
//
// The tests need root and the hierarchies of cgroup v1. Daemons run in the namespaces of the
// tests, with mounts of their own over the directories in which they write, and pods in cgroups
// that the tests make and remove.
package cluster
