// SPDX-License-Identifier: Apache-2.0

// Package instancetype holds the network limits of EC2 instance types: how many ENIs
// fit on each network card, how many addresses or delegated prefixes on an ENI, how
// many branch ENIs on a trunk ENI, and how many pods this allows. It imports only
// the standard library, makes no calls and reads no files, so that a max-pods
// calculator, a scheduler or a test can use it without the AWS SDK.
//
// [Lookup] finds a type in the built-in table and [All] lists the table.
// [Limits.MaxPods] computes the kubelet's max-pods for a [PodMode] with the formula
// of EKS, and [EKSCap] returns the cap that EKS adds to it.
//
// # Unknown types
//
// The table has the types of amazon-vpc-resource-controller-k8s and
// amazon-vpc-cni-k8s. The vCPUs, the memory and the EFAs come from published answers of
// DescribeInstanceTypes, which not every type has. AWS adds types every month, so a program must expect that
// Lookup reports false. It can then ask EC2 (ec2:DescribeInstanceTypes, as the
// Client of package eni does) and store the answer in a [Limits] of its own, or
// assume [Safe]. To list the types that the AWS SDK names and the table lacks, run in
// the root of the module:
//
//	go run ./eni/internal/limitsgen -missing
//
// To add a type, add its limits to eni/internal/limitsgen/instance-limits.csv and run
// go generate in this package.
package instancetype
